package trust

import (
	"testing"
)

// What the cluster pays: one signature for each record that is written and one
// verification for each that arrives; a handshake for each exchange of records; a seal for
// each node where one is removed.
func BenchmarkSign(b *testing.B) {
	k, body := testKey(1), make([]byte, 400)
	for b.Loop() {
		k.Sign(body)
	}
}

func BenchmarkVerify(b *testing.B) {
	k, body := testKey(1), make([]byte, 400)
	sig := k.Sign(body)
	for b.Loop() {
		if err := Verify(k.ID(), body, sig); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	a := testAuthority(b)
	client, server := member(b, a, 1), member(b, a, 2)
	accept := server.Server(ProtocolSync)
	for b.Loop() {
		if _, err1, err2 := meet(b, client.Client(ProtocolSync, ""), accept); err1 != nil || err2 != nil {
			b.Fatal(err1, err2)
		}
	}
}

func BenchmarkPeer(b *testing.B) {
	a := testAuthority(b)
	server := member(b, a, 2)
	s, _, _ := meet(b, member(b, a, 1).Client(ProtocolSync, ""), server.Server(ProtocolSync))
	state := s.ConnectionState()
	for b.Loop() {
		if _, err := server.Peer(state); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRotate300(b *testing.B) {
	_, public := nodes(300)
	now := must[Bundle](b)(NewBundle(noon()))
	size := 0
	for b.Loop() {
		_, rotation, err := now.Rotate(testKey(1), public, noon())
		if err != nil {
			b.Fatal(err)
		}
		size = len(rotation)
	}
	b.ReportMetric(float64(size), "bytes")
}
