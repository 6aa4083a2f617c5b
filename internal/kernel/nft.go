package kernel
type nftState struct{}
