package login

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// Dir is where a person's logins are, one file for each node by which one was made.
type Dir string

// Home is the person's own: sluice/logins in the directory for settings.
func Home() (Dir, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", mesh.Refuse(NoLogin, "set HOME or XDG_CONFIG_HOME", "nobody knows where your logins are (%v)", err)
	}
	return Dir(filepath.Join(config, "sluice", "logins")), nil
}

const (
	suffix     = ".json"
	fileLimit  = 64 << 10 // bytes
	fileFormat = 1
)

type file struct {
	Version     int    `json:"v"`
	Host        string `json:"host"`
	Key         []byte `json:"key"` // a secret
	Certificate []byte `json:"certificate"`
	Authority   []byte `json:"authority"`
}

func (d Dir) path(host string) string { return filepath.Join(string(d), url.PathEscape(host)+suffix) }

// Put keeps a login in the place of the one that was made by the same node, whole or not at all.
func (d Dir) Put(l *Login) error {
	text, err := json.Marshal(file{
		Version: fileFormat, Host: l.host, Key: l.key.Seed(), Certificate: l.creds.Certificate(), Authority: l.creds.Authority().Certificate(),
	})
	if err != nil {
		return fmt.Errorf("keep the login at %s: %w", l.host, err)
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("keep the login at %s: %w", l.host, err)
	}
	making, err := os.CreateTemp(string(d), ".new-*") // only its owner may read it
	if err != nil {
		return fmt.Errorf("keep the login at %s: %w", l.host, err)
	}
	defer os.RemoveAll(making.Name()) // where it has got its own name there is nothing
	_, err = making.Write(text)
	if err = errors.Join(err, making.Sync(), making.Close()); err == nil {
		err = os.Rename(making.Name(), d.path(l.host))
	}
	if err != nil {
		return fmt.Errorf("keep the login at %s: %w", l.host, err)
	}
	return nil
}

// Remove forgets the login that was made by a node. It refuses with NoLogin where there is none.
func (d Dir) Remove(host string) error {
	err := os.Remove(d.path(host))
	if errors.Is(err, fs.ErrNotExist) {
		return d.none(host)
	}
	return err
}

// For is the login to ask a node with: the one that was made by it, or the only one there is, or
// one of several that are all in one cluster. It refuses with NoLogin rather than to show one
// cluster's login to another, and with Exposed, Damaged or trust.CertExpired.
func (d Dir) For(host string, now func() time.Time) (*Login, error) {
	l, err := d.read(d.path(host), now)
	if !errors.Is(err, fs.ErrNotExist) {
		return l, err
	}
	var best *Login
	var fault error
	for _, path := range d.files() {
		l, err := d.read(path, now)
		switch {
		case err != nil:
			fault = err
		case best != nil && best.creds.Authority().Pin() != l.creds.Authority().Pin():
			return nil, d.none(host)
		case best == nil || best.Who().NotAfter.Before(l.Who().NotAfter):
			best = l
		}
	}
	if best == nil && fault != nil {
		return nil, fault
	}
	if best == nil {
		return nil, d.none(host)
	}
	return best, nil
}

func (d Dir) none(host string) error {
	var hosts []string
	for _, path := range d.files() {
		if name, err := url.PathUnescape(strings.TrimSuffix(filepath.Base(path), suffix)); err == nil {
			hosts = append(hosts, name)
		}
	}
	if len(hosts) == 0 {
		return mesh.Refuse(NoLogin, Again, "there is no login here")
	}
	return mesh.Refuse(NoLogin, "name one of these, or "+Again, "there is no login at %s, but at %s", host, strings.Join(hosts, " and "))
}

// files are those of all logins; none where they cannot be listed.
func (d Dir) files() []string {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil
	}
	var paths []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			paths = append(paths, filepath.Join(string(d), e.Name()))
		}
	}
	return paths
}

func (d Dir) read(path string, now func() time.Time) (*Login, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read a login: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, mesh.Refuse(Exposed, "run 'chmod 600' on it, and log in again if it was read", "others may read %s, which holds a key", path)
	}
	if info.Size() > fileLimit {
		return nil, damaged(path, fmt.Errorf("it has %d bytes", info.Size()))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a login: %w", err)
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, damaged(path, err)
	}
	if f.Version != fileFormat {
		return nil, mesh.Refuse(trust.NewerVersion, "use the version of sluice that wrote it, or "+Again, "%s has version %d, and this program knows %d", path, f.Version, fileFormat)
	}
	key, err := trust.ParseKey(f.Key)
	if err != nil {
		return nil, damaged(path, err)
	}
	authority, err := trust.ParseAuthority(f.Authority)
	if err != nil {
		return nil, damaged(path, err)
	}
	return newLogin(f.Host, key, authority, f.Certificate, now)
}

func damaged(path string, why error) error {
	return mesh.Refuse(Damaged, "remove it, and "+Again, "%s cannot be read: %v", path, why)
}
