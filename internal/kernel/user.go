package kernel

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// UserRulesLost is the reason of a failure where the administrator's rules went with
// all others and what is kept of them does not load.
const UserRulesLost plan.Reason = "UserRulesLost"

// UserTable is the administrator's table: made empty, or with the rules that were
// kept when all of the host's rules were flushed.
type UserTable struct {
	user plan.User
	kept bool // with the rules that were kept
}

func (u UserTable) String() string {
	if u.kept {
		return u.user.String() + " with the rules that it had"
	}
	return u.user.String()
}

// userState is what is known of the administrator's table.
type userState struct {
	table    bool // it is there
	chain    bool // and so is the chain
	bare     bool // and nothing else
	own      bool // our own table inet is there
	kept     bool // rules of his are kept
	owed     bool // that they are not there is no wish of his
	volatile bool // it may hold what changes without a rule being changed
	sum      string
}

// diffUser makes what is absent, and removes what nobody has put a rule in. Where the
// table went together with ours somebody flushed everything, so his rules come back;
// where it went alone, he took them.
func diffUser(want *plan.Sandbox, have userState) []Op {
	switch {
	case want.User == (plan.User{}):
		if have.table && have.bare {
			return []Op{{Delete, want.Name, UserTable{}}}
		}
		return nil
	case have.table && have.chain:
		return nil
	default:
		kept := !have.table && have.kept && (have.owed || !have.own)
		return []Op{{Add, want.Name, UserTable{want.User, kept}}}
	}
}

// observeUser looks at the administrator's table without understanding it.
func (n *namespace) observeUser() (userState, error) {
	state, err := n.user.refresh(n, n.readUser)
	if err != nil {
		return state, fmt.Errorf("look at table inet %s: %w", plan.UserTable, err)
	}
	return state, nil
}

func (n *namespace) readUser() (s userState, err error) {
	tables, err := n.askNFT(unix.NFT_MSG_GETTABLE, nftables.TableFamilyINet, nfnetlink.Dump, nil)
	if err != nil {
		return s, err
	}
	holds := uint32(0) // chains, sets and the like
	for _, m := range tables {
		name, use, err := decodeUse(m)
		if err != nil {
			return s, err
		}
		s.own = s.own || name == plan.TableName
		if name == plan.UserTable {
			s.table, holds = true, use
		}
	}
	if !s.table {
		return s, nil
	}
	chains, err := n.chainsOf(nftables.TableFamilyINet, plan.UserTable)
	if err != nil {
		return s, err
	}
	c, ok := chains[plan.UserChain]
	s.chain, s.bare = ok, ok && holds == 1 && c.rules == 0
	s.volatile = holds > uint32(len(chains))
	s.sum = fmt.Sprint(holds) + rulesSum(chains)
	return s, nil
}

func decodeUse(m nfnetlink.Message) (name string, use uint32, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", 0, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			name = ad.String()
		case unix.NFTA_TABLE_USE:
			use = ad.Uint32()
		}
	}
	return name, use, ad.Err()
}

// observeUser implements the step: what is there, and what is kept.
func (k *Kernel) observeUser() (userState, error) {
	s, err := k.host.observeUser()
	s.kept, s.owed = k.kept.text != "", k.kept.owed
	return s, err
}

// doUser makes or removes the administrator's table.
func (k *Kernel) doUser(verb Verb, o UserTable) error {
	if verb == Delete {
		return k.host.nftText("delete table inet " + plan.UserTable)
	}
	if !o.kept {
		return k.host.nftText(fmt.Sprintf("table inet %s { chain %s { %s }\n}\n", plan.UserTable, plan.UserChain, o.user.Base))
	}
	// Ours comes back next: from now on its presence says nothing.
	if err := k.kept.owe(); err != nil {
		return err
	}
	// "create" fails where the table is there after all, and rules would be there twice.
	if err := k.host.nftText("create table inet " + plan.UserTable + "\n" + k.kept.text); err != nil {
		return &Refusal{
			UserRulesLost, fmt.Sprintf("your rules in inet %s were flushed and cannot be loaded again (%v)", plan.UserTable, err),
			fmt.Sprintf("correct them in %s, or make the table yourself", k.kept.path),
		}
	}
	return k.kept.paid()
}

func (n *namespace) nftText(text string) error {
	return n.do(func() error { return n.runNFT(text) })
}

// userIn is what a plan says of the administrator's table.
func userIn(p *plan.Plan) plan.User {
	for _, s := range p.Sandboxes {
		if s.Kind == plan.KindHost {
			return s.User
		}
	}
	return plan.User{}
}

// keepUser stores the administrator's rules as they are now, after a round. loaded
// tells whether the round has loaded our own table: if his is gone then, somebody
// flushed both meanwhile. Without a wish for the table nothing is kept.
func (k *Kernel) keepUser(wish plan.User) error {
	s, err := k.host.observeUser()
	switch {
	case isMissing(err):
		return nil // no table can be there
	case err != nil:
		return err
	case wish == (plan.User{}):
		if k.kept.owed {
			return nil
		}
		return k.kept.forget()
	case !s.table && k.loaded:
		return k.kept.owe()
	case !s.table || !s.own:
		return nil
	case !s.volatile && s.sum == k.kept.sum && !k.kept.owed:
		return nil
	}
	text, err := k.host.listUser()
	if err != nil {
		return err
	}
	return k.kept.keep(text, s.sum)
}

// listUser is the table in nft's own words, without what counters have counted.
func (n *namespace) listUser() (string, error) {
	text, err := n.listTable("inet", plan.UserTable)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(text) + "\n", nil
}
