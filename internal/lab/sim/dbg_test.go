package sim

import (
	"fmt"
	mrand "math/rand"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
)

var initRand = rand.Uint64()

func TestDbg(t *testing.T) {
	if os.Getenv(exactEnv) == "" {
		for range 6 {
			exactly(os.Stdout, [16]byte([]byte("0123456789abcdef")), "-test.run=^TestDbg$")
		}
		return
	}
	a, b := rand.Uint64(), mrand.Int63()
	synctest.Test(t, func(t *testing.T) {
		m := map[int]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 8, 9: 9}
		s := ""
		for k := range m {
			s += fmt.Sprint(k)
		}
		fmt.Println("D", initRand%10000, a%10000, b%10000, rand.Uint64()%10000, s)
	})
}
