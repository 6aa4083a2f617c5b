package kernel

// stages is told of every point at which a process that dies leaves something
// different behind: before and after an op, and between the system calls of one.
// Tests end the process there; in production it is nil.
type stages func(stage string)

func (s stages) reach(stage string) {
	if s != nil {
		s(stage)
	}
}

// around is asked with what comes before or after an op, whose text costs.
func (s stages) around(when string, op Op) {
	if s != nil {
		s(when + " " + op.String())
	}
}
