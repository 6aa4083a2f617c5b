package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/bridge/dns"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// resolvFiles are where the host keeps what its programs resolve names by.
type resolvFiles struct {
	host  string // its own resolv.conf
	named string // the directory of the namespaces of "ip netns"
	etc   string // the directory of what "ip netns exec NAME" puts over /etc, below NAME
}

func hostFiles() resolvFiles {
	return resolvFiles{host: "/etc/resolv.conf", named: "/run/netns", etc: "/etc/netns"}
}

// confName is the file, in the run directory and below etc/NAME.
const confName = "resolv.conf"

// managedConf is the resolv.conf of the endpoints of the agent with this run directory: one for
// all, written in place, so that it may be mounted wherever a workload looks for its own.
func managedConf(runDir string) string { return filepath.Join(runDir, confName) }

// resolvConfs keeps the endpoints' resolv.conf.
type resolvConfs struct {
	resolvFiles
	managed string
}

// confEvery is how long a change of the host's resolvers may go unnoticed.
const confEvery = time.Second

// now is what the host's resolv.conf says; nothing where there is none.
func (c resolvConfs) now() dns.Conf {
	text, err := os.ReadFile(c.host)
	if err != nil {
		return dns.Conf{}
	}
	return dns.ParseConf(string(text))
}

// follow gives what the host's resolv.conf says to changed whenever it is something else, until
// ctx ends. A host without one has no resolvers.
func (c resolvConfs) follow(ctx context.Context, changed func(dns.Conf), log *slog.Logger) error {
	said := ""
	for {
		err := dns.WatchConf(ctx, c.host, confEvery, changed)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			log.Warn("the host's resolvers are not known", "err", err)
		}
		if !sleep(ctx, confEvery) {
			return nil
		}
	}
}

// writeInPlace leaves the file the one that it is, for it may be mounted elsewhere.
func writeInPlace(path, text string) (err error) {
	if have, err := os.ReadFile(path); err == nil && string(have) == text {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	defer closing(&err, f.Close)
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	return f.Truncate(int64(len(text)))
}

// link gives those of the endpoints' namespaces that "ip netns" has by name our resolv.conf, by
// a symbolic link below etc, and takes the links of others away. What somebody else put there
// stays as it is: our links are known by where they lead.
func (c resolvConfs) link(local map[mesh.EndpointID]*mesh.Endpoint, path func(sandbox string) string) error {
	ours := map[inode]bool{}
	for id := range local {
		if i, ok := inodeOf(path(plan.EndpointSandbox(string(id)))); ok {
			ours[i] = true
		}
	}
	named, err := os.ReadDir(c.named)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list named namespaces: %w", err)
	}
	err = nil
	wanted := map[string]bool{}
	for _, entry := range named {
		i, ok := inodeOf(filepath.Join(c.named, entry.Name()))
		if !ok || !ours[i] {
			continue
		}
		wanted[entry.Name()] = true
		err = errors.Join(err, c.linkOne(entry.Name()))
	}
	_, removed := c.unlink(func(name string) bool { return !wanted[name] })
	return errors.Join(err, removed)
}

func (c resolvConfs) linkOne(name string) error {
	dir := filepath.Join(c.etc, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("link resolv.conf of namespace %s: %w", name, err)
	}
	if err := os.Symlink(c.managed, filepath.Join(dir, confName)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("link resolv.conf of namespace %s: %w", name, err)
	}
	return nil
}

// unlink takes away our links to the names that match, and the directories that are empty then.
func (c resolvConfs) unlink(match func(name string) bool) (removed []string, err error) {
	entries, err := os.ReadDir(c.etc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list links to resolv.conf: %w", err)
	}
	for _, entry := range entries {
		file := filepath.Join(c.etc, entry.Name(), confName)
		if to, unread := os.Readlink(file); unread != nil || to != c.managed || !match(entry.Name()) {
			continue
		}
		if failed := os.Remove(file); failed != nil && !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("unlink resolv.conf: %w", failed))
			continue
		}
		removed = append(removed, file)
		_ = os.Remove(filepath.Dir(file)) // it stays where there is something else in it
	}
	if len(removed) > 0 {
		_ = os.Remove(c.etc)
	}
	return removed, err
}

// inode is a file's identity while it lives.
type inode struct{ dev, number uint64 }

func inodeOf(path string) (inode, bool) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return inode{}, false
	}
	return inode{st.Dev, st.Ino}, true
}
