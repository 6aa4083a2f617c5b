package kernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

const procSys = "/proc/sys"

// observeSysctls reads the settings that are asked for. /proc/sys/net shows the
// reading thread's namespace.
func (n *namespace) observeSysctls(want []plan.Sysctl) (map[string]string, error) {
	settings := map[string]string{}
	err := n.do(func() error {
		for _, s := range want {
			some, err := readSysctls(s.Key)
			if err != nil {
				return err
			}
			maps.Copy(settings, some)
		}
		return nil
	})
	return settings, err
}

// readSysctls reads the settings of a key in the calling thread's namespace, by key.
func readSysctls(key string) (map[string]string, error) {
	files, err := expand(key)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // the device left meanwhile, or the kernel lacks the setting: doing it will tell
		}
		if err != nil {
			return nil, fmt.Errorf("read setting: %w", err)
		}
		settings[strings.TrimPrefix(file, procSys+"/")] = strings.TrimSpace(string(b))
	}
	return settings, nil
}

// expand lists the files that a key may mean; one of its elements may be "*". What
// is listed need not be there.
func expand(key string) ([]string, error) {
	before, after, wild := strings.Cut(key, "*")
	if !wild {
		return []string{path.Join(procSys, key)}, nil
	}
	dir := path.Join(procSys, before)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("expand setting %s: %w", key, err)
	}
	files := make([]string, len(entries))
	for i, e := range entries {
		files[i] = path.Join(dir, e.Name()) + after
	}
	return files, nil
}

// diffSysctls sets what has another value. Settings are never deleted here.
func diffSysctls(sandbox string, want []plan.Sysctl, have map[string]string) []Op {
	var ops []Op
	for _, s := range want {
		for _, key := range matching(s.Key, have) {
			value, ok := have[key]
			if ok && value == s.Value || s.If != "" && value != s.If {
				continue
			}
			ops = append(ops, Op{Replace, sandbox, plan.Sysctl{Key: key, Value: s.Value}})
		}
	}
	return ops
}

func matching(key string, have map[string]string) []string {
	if !strings.Contains(key, "*") {
		return []string{key}
	}
	var keys []string
	for k := range have {
		if ok, err := path.Match(key, k); err == nil && ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func (n *namespace) setSysctl(s plan.Sysctl) error {
	if err := n.refuseSetting(s.Key); err != nil {
		return err
	}
	return n.do(func() error { return writeSysctl(s) })
}

// refuseSetting refuses those of devices that have the name of ours and are not. The host has
// devices of others whose settings matter to us, under names that ours never have.
func (n *namespace) refuseSetting(key string) error {
	const ofDevice = 5 // net, family, table, device, setting
	part := strings.Split(key, "/")
	if len(part) != ofDevice || part[2] != "conf" && part[2] != "neigh" {
		return nil
	}
	if n.kind != plan.KindEndpoint && !(n.kind == plan.KindHost && strings.HasPrefix(part[3], plan.HostLinks)) {
		return nil
	}
	_, err := n.device(part[3])
	if _, refused := errors.AsType[*Refusal](err); refused {
		return err
	}
	return nil // where it is absent writing tells
}

// writeSysctl sets a setting of the calling thread's namespace.
func writeSysctl(s plan.Sysctl) error {
	err := os.WriteFile(path.Join(procSys, s.Key), []byte(s.Value), 0)
	if os.IsNotExist(err) {
		return &Refusal{plan.FeatureMissing, fmt.Sprintf("this kernel has no setting %s", s.Key), "load the module it belongs to"}
	}
	return err
}
