package trust

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sluice-mesh/sluice/mesh"
)

// The join exchange, within TLS whose server has proven to be a node of the pinned CA:
//
//	client  request (JSON) | two signatures over the connection and the request:
//	        by the key that the token's secret stands for, and by the new member's own
//	server  answer (JSON): a refusal, or a certificate and for a node the Bundle
//
// Each message is its length, 4 bytes, and as many bytes. What is signed begins with what
// TLS exports for this connection alone (RFC 9266), so a request that one server was
// sent is worth nothing at another.
const (
	purposeToken  = "sluice-join-token/1"
	purposeJoin   = "sluice-join-key/1"
	exporterLabel = "EXPORTER-sluice-door"
	exporterSize  = 32

	requestLimit = 4 << 10
	answerLimit  = 96 << 10 // most of it a Trail
	proofsSize   = 2 * ed25519.SignatureSize
)

type wireRequest struct {
	Version  int     `json:"v"`
	Token    TokenID `json:"token"`
	TokenKey []byte  `json:"tokenKey"`
	Key      []byte  `json:"key"`
	Role     Role    `json:"role"`
	Name     string  `json:"name,omitempty"` // of an operator or viewer
}

type wireAnswer struct {
	Version     int          `json:"v"`
	Refusal     *wireRefusal `json:"refusal,omitempty"`
	Certificate []byte       `json:"certificate,omitempty"`
	Bundle      *wireBundle  `json:"bundle,omitempty"`
	Trail       *wireTrail   `json:"trail,omitempty"` // to the Bundle's CA
}

type wireRefusal struct {
	Reason mesh.Reason `json:"reason"`
	Why    string      `json:"why"`
	Do     string      `json:"do"`
}

func parseRequest(data []byte) (wireRequest, error) {
	const what = "the join request"
	var r wireRequest
	if err := decode(what, data, requestLimit, &r); err != nil {
		return r, err
	}
	if len(r.Key) != KeySize || len(r.TokenKey) != KeySize {
		return r, damaged(what, "a key has another length")
	}
	if _, err := ParseRole(string(r.Role)); err != nil {
		return r, err
	}
	return r, nil
}

func parseAnswer(data []byte) (wireAnswer, error) {
	const what = "the answer to the join request"
	var a wireAnswer
	if err := decode(what, data, answerLimit, &a); err != nil {
		return a, err
	}
	if a.Refusal == nil && a.Certificate == nil {
		return a, damaged(what, "it holds neither a certificate nor a refusal")
	}
	return a, nil
}

// err is the refusal that another machine wrote, fit to be shown.
func (r wireRefusal) err() error {
	return &mesh.Refusal{Reason: mesh.Reason(printable(string(r.Reason))), Why: printable(r.Why), Do: printable(r.Do)}
}

// bound is what the signatures of a request are over.
func bound(state tls.ConnectionState, request []byte) ([]byte, error) {
	binding, err := state.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
	if err != nil {
		return nil, fmt.Errorf("bind to the connection: %w", err)
	}
	return append(binding, request...), nil
}

func writeMessage(w io.Writer, message []byte) error {
	framed := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(message)), uint32(len(message)))
	_, err := w.Write(append(framed, message...))
	return err
}

// readMessage reads one message of up to limit bytes. It reserves no more than what is
// announced, and nothing where that is too much.
func readMessage(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(limit) {
		return nil, damaged("a message", fmt.Sprintf("it announces %d bytes, and %d are allowed", n, limit))
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(r, message); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return message, nil
}
