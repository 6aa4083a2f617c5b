// Package agent is the process on every node: it wires the parts together, runs
// the one loop and answers the API. It has no networking knowledge of its own.
package agent
