package plan

import "slices"

// A Lock is a table that belongs to a socket of the agent: the kernel lets nobody else change it, and
// whoever flushes all rules leaves it. It holds what must be dropped while the tables of the host are
// away, and while they are there nothing comes to it that it drops. It ends with the agent.

// MakeLock returns the host's lock, making it at first use.
func (s *Sandbox) MakeLock() *Table {
	if s.Lock == nil {
		s.Lock = &Table{Family: "inet", Name: LockTable}
	}
	return s.Lock
}

// AllTables are the tables and, behind them, the lock.
func (s *Sandbox) AllTables() []*Table {
	if s.Lock == nil {
		return s.Tables
	}
	return append(slices.Clip(s.Tables), s.Lock)
}
