package plan

import "fmt"

// Direction says at which end of being forwarded a packet meets a device.
type Direction string

// The directions.
const (
	In  Direction = "in"  // it came in by the device
	Out Direction = "out" // it goes out by the device
)

// Passage lets the host forward what comes in or goes out by a device of ours where
// another program's firewall drops whatever none of its rules lets through. It
// is no more than that: rules that name what they drop are asked before.
// Its key is itself.
type Passage struct {
	Device    string // a name; ending in "*", all that begin so
	Direction Direction
}

func (p Passage) String() string { return fmt.Sprintf("passage  %s by %s", p.Direction, p.Device) }

// Pass adds both directions of a device, or of all whose names begin so where it ends in "*".
func (s *Sandbox) Pass(device string) {
	s.Passages = append(s.Passages, Passage{device, In}, Passage{device, Out})
}

// The administrator's own table, of family inet, and the chain in it.
const (
	UserTable = "sluice-user"
	UserChain = "user"
)

// User is the chain in which the administrator has rules of his own, asked before
// ours. It is made where it is absent; what is in it is never changed. The zero
// value asks for none.
type User struct{ Base string } // hook line

func (u User) String() string {
	return fmt.Sprintf("user     chain inet %s %s { %s }", UserTable, UserChain, u.Base)
}
