package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// ElsewhereHost is the reason of a refusal by Reset: the run directory belongs to
// another network namespace.
const ElsewhereHost plan.Reason = "ElsewhereHost"

// ResetReport is what a Reset did and could not do.
type ResetReport struct {
	Report             // what was removed and could not be
	Restored []Setting // settings that have their earlier value again
	Left     []Left    // what is as it was found
}

// Left is something that Reset found and did not touch.
type Left struct {
	Object string
	Why    string // one clause
}

// OwnFile tells whether a name in the run directory is one that this package uses.
func OwnFile(name string) bool {
	name = strings.TrimSuffix(name, making)
	return name == netnsName || name == SettingsName || name == UserRulesName || name == CapturesName
}

// Reset undoes all that Apply and Pin ever did on this host: what carries our mark
// is removed, sandboxes are unmounted, and the host's settings get the values from
// before the first change, but for those that somebody has changed since. Modules
// that the kernel loaded stay. What fails is reported and the rest still done;
// calling again goes on. It refuses, and does nothing, where the run directory was
// used in another network namespace of this boot.
func (k *Kernel) Reset(ctx context.Context) (ResetReport, error) {
	content, err := readSettings(k.settings.path)
	if err != nil {
		return ResetReport{}, err
	}
	if home := k.settings.home; content.Boot == home.Boot && content.Namespace != home.Namespace {
		return ResetReport{}, &Refusal{
			ElsewhereHost, fmt.Sprintf("%s is about the settings of another network namespace", k.settings.path),
			"run this in the namespace that the agent ran in; if that is gone, remove the file and try again",
		}
	}
	report := ResetReport{Report: k.Apply(ctx, &plan.Plan{})}
	if err := ctx.Err(); err != nil {
		return report, err
	}
	k.leaveUser(&report)
	k.sweep(&report)
	failed := len(report.Failed)
	if err := k.host.do(func() error { return k.restore(&report) }); err != nil {
		report.fail("host: settings", err)
	}
	if len(report.Failed) == failed { // otherwise the file is needed again
		if err := k.settings.forget(); err != nil {
			report.fail("host: settings", err)
		}
	}
	return report, nil
}

func (r *ResetReport) fail(object string, err error) {
	r.Failed = append(r.Failed, Failure{Object: object, Reason: reasonOf(err), Err: err})
}

// leaveUser names what the administrator has in the table that was made for him:
// the rules are his, and go on as they are. One without rules is gone by now.
func (k *Kernel) leaveUser(report *ResetReport) {
	s, err := k.host.observeUser()
	switch {
	case isMissing(err):
	case err != nil:
		report.fail("host: user", err)
	case s.table:
		report.Left = append(report.Left, Left{
			"host: nft table inet " + plan.UserTable, "it holds rules of yours, which go on as they are; nft delete table inet " + plan.UserTable + " removes them",
		})
	}
	if k.kept.owed {
		report.Left = append(report.Left, Left{k.kept.path, "it holds rules of yours that were flushed and could not be loaded again"})
	}
}

// sweep removes what is left where sandboxes are mounted: the files of namespaces
// that are not mounted any more count as no sandbox.
func (k *Kernel) sweep(report *ResetReport) {
	entries, err := os.ReadDir(k.netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		report.fail("namespaces", err)
		return
	}
	foreign := 0
	for _, e := range entries {
		kind, ours := kindOf(e.Name())
		if !ours {
			foreign++
			report.Left = append(report.Left, Left{k.Path(e.Name()), "it is none of sluice's sandboxes"})
			continue
		}
		op := Op{Delete, e.Name(), Namespace{kind}}
		if err := k.do(op); err != nil {
			report.fail(e.Name()+": "+op.Object.String(), err)
			continue
		}
		report.Done = append(report.Done, op)
	}
	if foreign > 0 || len(report.Failed) > 0 {
		return
	}
	if err := os.Remove(k.netnsDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		report.fail("namespaces", err)
	}
}

// wish is what a setting should be after a reset.
type wish struct {
	Setting
	value string
	ours  bool // it has our value, and gets another
}

// restore puts the settings of the calling thread's namespace back that are still ours.
func (k *Kernel) restore(report *ResetReport) error {
	stored := slices.Clone(k.settings.list)
	slices.Reverse(stored) // forwarding goes off before router advertisements are heeded as before
	var wishes []wish
	for _, s := range stored {
		have, err := readSysctls(s.Key)
		if err != nil {
			return err
		}
		now, ok := have[s.Key]
		switch {
		case !ok: // went with its device
		case now == s.Before, now == s.Ours, s.Restoring:
			wishes = append(wishes, wish{s, s.Before, now != s.Before})
		default:
			wishes = append(wishes, wish{s, now, false})
			report.Left = append(report.Left, Left{
				"host: " + s.Key, fmt.Sprintf("it is %s; sluice had changed it from %s to %s, and somebody has changed it since", now, s.Before, s.Ours),
			})
		}
	}
	if err := k.settings.restoring(wishes); err != nil {
		return err
	}
	wrong := k.grant(wishes)
	for _, w := range wishes {
		switch err := wrong[w.Key]; {
		case err != nil:
			report.fail("host: "+plan.Sysctl{Key: w.Key, Value: w.value}.String(), err)
		case w.ours:
			report.Restored = append(report.Restored, w.Setting)
		}
	}
	return nil
}

var errNotKept = errors.New("restore: something sets it back at once")

// grant writes until all is as wished, and returns by key why something is not.
// One setting changes others, so those that come first may be wrong again afterwards.
func (k *Kernel) grant(wishes []wish) (wrong map[string]error) {
	const passes = 3
	for range passes {
		wrong = map[string]error{}
		for _, w := range wishes {
			have, err := readSysctls(w.Key)
			now, ok := have[w.Key]
			switch {
			case err != nil:
				wrong[w.Key] = err
			case !ok || now == w.value:
			default:
				wrong[w.Key] = cmp.Or(writeSysctl(plan.Sysctl{Key: w.Key, Value: w.value}), errNotKept)
				k.stages.reach("setting restored")
			}
		}
		if len(wrong) == 0 {
			break
		}
	}
	return wrong
}
