package kernel
type ipvsState struct{}
