package kernel

type ipvsState struct{}

func (s *ipvsState) close() {}
