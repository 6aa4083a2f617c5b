// Package tiny is what the runner's own test runs under "go test -exec".
package tiny

// Half is n/2, rounded down towards zero.
func Half(n int) int {
	if n < 0 {
		return -Half(-n)
	}
	return n / 2
}
