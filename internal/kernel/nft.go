package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Rules are text, given to the nft program in one transaction a table; elements
// go by netlink, which is a hundred times faster. Netlink is never used to write
// rules: the library loses the direction of a conntrack zone and knows no fwd.
const (
	nftWait      = 10 * time.Second // for one answer of the kernel
	nftLoadWait  = 60 * time.Second // for the nft program
	nftChunk     = 500              // elements a message: a list of them must stay below 64 kB
	nftReadRoom  = 16 << 20         // bytes of acknowledgements and dumps
	nftWriteRoom = 64 << 20         // bytes of one transaction: it is a single send
)

// nftState is the lasting netlink connection into one namespace, opened at first
// use, and what was last read through it.
type nftState struct {
	conn *nftables.Conn
	sock *nfnetlink.Conn // conn's own: for deadlines, and questions conn does not know
	last nftReading
	own  *writers // told of sock's number
	port uint32   // that number
}

func (s *nftState) close() {
	if s.conn != nil {
		_ = s.conn.CloseLasting() // nothing is lost with it
		s.own.closed(s.port)
	}
	*s = nftState{}
}

// nftConn opens the connection where it is not open and gives what is asked of
// it next its time.
func (n *namespace) nftConn() (*nftables.Conn, error) {
	s := &n.nft
	if s.conn == nil {
		var sock *nfnetlink.Conn
		conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(n.fd)),
			nftables.WithSockOptions(func(c *nfnetlink.Conn) error {
				sock = c
				return errors.Join(c.SetReadBuffer(nftReadRoom), c.SetWriteBuffer(nftWriteRoom),
					c.SetOption(nfnetlink.CapAcknowledge, true))
			}))
		if err != nil {
			if sock != nil {
				_ = sock.Close() // the error that counts is the first
			}
			return nil, fmt.Errorf("open nft connection: %w", err)
		}
		port, err := socketNumber(sock)
		if err != nil {
			_ = conn.CloseLasting() // as above
			return nil, fmt.Errorf("ask for the number of the nft connection: %w", err)
		}
		n.own.opened(port)
		s.conn, s.sock, s.own, s.port = conn, sock, n.own, port
	}
	if err := s.sock.SetDeadline(time.Now().Add(nftWait)); err != nil {
		return nil, fmt.Errorf("set nft deadline: %w", err)
	}
	return s.conn, nil
}

// doNFT carries out an op on a TableLoad or an ElementChange.
func (n *namespace) doNFT(op Op) error {
	switch o := op.Object.(type) {
	case TableLoad:
		switch op.Verb {
		case Delete:
			return n.deleteTable(o.Table.Family)
		case Add:
			return n.makeTable(o.Table)
		default:
			return n.loadTable(o.Table)
		}
	case ElementChange:
		return n.changeElements(o)
	default:
		return fmt.Errorf("nft: cannot %s a %T", op.Verb, op.Object)
	}
}

// loadTable replaces a table, or makes it, with its elements, in one
// transaction: packets meet the old rules or the new ones. Learned sets stay where they
// can (nftkeep.go).
func (n *namespace) loadTable(t *plan.Table) error {
	if _, err := familyOf(t.Family); err != nil {
		return err
	}
	if err := checkElements(t); err != nil {
		return fmt.Errorf("load table %s %s: %w", t.Family, plan.TableName, err)
	}
	stamp := n.deviceStamp(t)
	keep, err := n.keepText(t, stamp)
	if err != nil {
		return fmt.Errorf("load table %s %s: %w", t.Family, plan.TableName, err)
	}
	if keep != "" && n.loadRules(t, keep) == nil {
		return nil
	}
	// Also where somebody has changed the table so that no part of it can stay.
	return n.loadRules(t, loadText(t, stamp))
}

// fewElements is up to how many the nft program reads as fast as it starts.
const fewElements = 2000

// makeTable is loadTable where there is none. Very many elements go by netlink, into sets
// of a table without rules: the rules that come last, in one transaction, find them all.
func (n *namespace) makeTable(t *plan.Table) error {
	change, count := ElementChange{Family: t.Family}, 0
	for _, s := range t.Sets {
		change.Sets = append(change.Sets, SetChange{Set: *s, Come: s.Elements})
		count += len(s.Elements)
	}
	if count <= fewElements {
		return n.loadTable(t)
	}
	bare := t.Bare()
	bare.Chains = nil
	if err := n.do(func() error { return n.runNFT(emptied(t) + bare.Skeleton()) }); err != nil {
		return fmt.Errorf("make sets of %s %s: %w", t.Family, plan.TableName, err)
	}
	n.stages.reach("sets made")
	if err := n.sendElements(change); err != nil {
		return fmt.Errorf("fill sets of %s %s: %w", t.Family, plan.TableName, err)
	}
	n.stages.reach("sets filled")
	rules := &plan.Table{Family: t.Family, Chains: t.Chains}
	return n.loadRules(t, rules.Skeleton()+sumText(t, n.deviceStamp(t)))
}

func (n *namespace) loadRules(t *plan.Table, text string) error {
	if err := n.do(func() error { return n.runNFT(text) }); err != nil {
		return fmt.Errorf("load table %s %s: %w", t.Family, plan.TableName, err)
	}
	n.stages.reach("table loaded")
	if err := n.markRules(t.Family); err != nil {
		return fmt.Errorf("mark table %s %s: %w", t.Family, plan.TableName, err)
	}
	return nil
}

// markRules keeps what the kernel has made of the rules just loaded, beside them:
// a rule that somebody changes in its place is told by it. Until the mark is there
// the table counts as not ours, and is loaded again.
func (n *namespace) markRules(family string) error {
	f, err := familyOf(family)
	if err != nil {
		return err
	}
	chains, err := n.readChains(f)
	if err != nil {
		return err
	}
	conn, err := n.nftConn()
	if err != nil {
		return err
	}
	conn.AddChain(&nftables.Chain{Table: &nftables.Table{Name: plan.TableName, Family: f}, Name: rulesChain + rulesSum(chains)})
	return n.flushNFT()
}

// loadText is the transaction that loads a table whole.
func loadText(t *plan.Table, stamp string) string {
	return emptied(t) + t.Ruleset() + sumText(t, stamp)
}

// emptied takes a table away, whether it is there or not. nft 1.0.6 has no "destroy", so
// it is made first that it can be deleted.
func emptied(t *plan.Table) string {
	name := t.Family + " " + plan.TableName
	return fmt.Sprintf("table %s { }\ndelete table %s\n", name, name)
}

// sumText keeps what was loaded, as the name of a chain without rules: a comment would be
// nicer, but the netlink library reads none.
func sumText(t *plan.Table, stamp string) string {
	return fmt.Sprintf("table %s %s {\n\tchain %s%s%s { }\n}\n", t.Family, plan.TableName, sumChain, skeletonSum(t), stamp)
}

// sumChain begins the name of the chain that says what was loaded: the
// skeleton's sum and a device stamp follow.
const sumChain = "sum_"

// rulesChain begins the name of the chain that carries rulesSum.
const rulesChain = "rules_"

// byIndex finds the devices that nft turns into their index, or hooks, when it
// loads a rule. (Those in iifname and oifname stay names.)
var byIndex = regexp.MustCompile(`\b(?:fwd to|device|iif|oif) "([^"]+)"`)

// deviceStamp is the indexes of the devices that a skeleton binds to. One that
// was made anew under its old name has another index, and rules loaded before
// it would miss it.
func (n *namespace) deviceStamp(t *plan.Table) string {
	var stamp strings.Builder
	for _, found := range byIndex.FindAllStringSubmatch(t.Skeleton(), -1) {
		index := 0 // no such device
		if link, err := n.link.LinkByName(found[1]); err == nil {
			index = link.Attrs().Index
		}
		fmt.Fprintf(&stamp, "_%d", index)
	}
	return stamp.String()
}

// runNFT gives one transaction to the nft program in the calling thread's
// namespace, which the child inherits, and tells n.own of the process.
func (n *namespace) runNFT(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), nftLoadWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	cmd.WaitDelay = time.Second
	// It ends with the agent, or it could load rules over those of the next one. The
	// signal follows the starting thread, which waits here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if err == nil {
		n.own.add(cmd.Process.Pid)
		n.stages.reach("nft started")
		err = cmd.Wait()
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return noNFTProgram()
	case ctx.Err() != nil:
		return fmt.Errorf("run nft: no end within %s", nftLoadWait)
	case err != nil:
		return fmt.Errorf("run nft: %w: %s", err, firstError(out.Bytes()))
	}
	return nil
}

// listTable is a table of whomever in nft's own words, without what counters have counted.
func (n *namespace) listTable(family, name string, flags ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), nftWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", append(flags, "-s", "list", "table", family, name)...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := n.do(cmd.Run)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", noNFTProgram()
	case err != nil:
		return "", fmt.Errorf("list table %s %s: %w: %s", family, name, err, firstError(stderr.Bytes()))
	}
	return stdout.String(), nil
}

func noNFTProgram() error {
	return &Refusal{plan.FeatureMissing, "there is no nft program", "install the package nftables, 1.0.6 or newer"}
}

// firstError is the line that says what nft did not like; more follow it.
func firstError(out []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return string(line)
}

// deleteTable deletes our table of a family. That it is not there is success.
func (n *namespace) deleteTable(family string) error {
	fam, err := familyOf(family)
	if err != nil {
		return err
	}
	conn, err := n.nftConn()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: plan.TableName, Family: fam})
	err = n.flushNFT()
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table %s %s: %w", family, plan.TableName, err)
	}
	return nil
}

// changeElements sends one transaction: first all that goes, then all that
// comes, so that a map's key may change its value in it. What was read before is then
// known to hold with the change.
func (n *namespace) changeElements(c ElementChange) error {
	before := n.nft.last
	err := n.sendElements(c)
	if err == nil {
		n.follow(before, c)
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("change elements of %s %s: table, set or element is no longer there: %w", c.Family, plan.TableName, err)
	}
	if err != nil {
		return fmt.Errorf("change elements of %s %s: %w", c.Family, plan.TableName, err)
	}
	return nil
}

// flushNFT sends what is queued. After an error nobody knows how many answers
// are still to come, so the connection is not used again.
func (n *namespace) flushNFT() error {
	err := n.nft.conn.Flush()
	if err != nil {
		n.nft.close()
	}
	return err
}

func familyOf(name string) (nftables.TableFamily, error) {
	switch name {
	case "inet":
		return nftables.TableFamilyINet, nil
	case "netdev":
		return nftables.TableFamilyNetdev, nil
	case "bridge":
		return nftables.TableFamilyBridge, nil
	case "ip":
		return nftables.TableFamilyIPv4, nil
	case "ip6":
		return nftables.TableFamilyIPv6, nil
	default:
		return 0, fmt.Errorf("nft has no table family %q that we use", name)
	}
}
