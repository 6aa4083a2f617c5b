//go:build race

package dns

// raceless is false where the race detector makes times mean little.
const raceless = false
