package gossip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/mesh"
)

// Signer signs what this node writes. Safe for concurrent use.
type Signer interface {
	// Sign returns the signature of a record's body, of at most SignatureLimit bytes. What is
	// signed must not be taken for anything else that the key signs.
	Sign(body []byte) []byte
}

// Verifier knows whose signatures count. Safe for concurrent use.
type Verifier interface {
	// Verify refuses a signature that writer did not make of body. An empty one is that of a
	// record without. It must not keep or change what it gets.
	Verify(writer mesh.NodeID, body, sig []byte) error
	// Admit refuses a record that came by packet, and was verified, of a writer who is not
	// known to be a member: to send packets it takes no more than the key of gossip. What
	// comes in an exchange is the word of the member at its other end.
	Admit(r mesh.Record) error
}

// Limits of one record.
const (
	SignatureLimit = 1024    // bytes
	bodyLimit      = 900_000 // bytes: with a signature it fits into any message
	lineLimit      = bodyLimit + 2000
)

// Seal gives a record, whose version and claim are set, the bytes that stand for it from
// then on, signed by s where that is not nil. was is the record that r takes the place of,
// or the zero Record: what its noun has that this version does not know of stays, so that
// an older node can change a service that a newer one made. Seal refuses a record that is
// too large to be sent (BadValue).
func Seal(r, was mesh.Record, s Signer) (mesh.Record, error) {
	body, err := json.Marshal(toWire(r))
	if err != nil {
		return r, fmt.Errorf("encode %s %s: %w", r.Kind, r.ID, err)
	}
	if body, err = withFields(body, unknownFields(r, was)); err != nil {
		return r, fmt.Errorf("keep unknown fields of %s %s: %w", r.Kind, r.ID, err)
	}
	if len(body) > bodyLimit {
		return r, mesh.Refuse(mesh.BadValue, "use fewer ports or shorter lists", "%s %s has %d bytes, the limit is %d", r.Kind, r.ID, len(body), bodyLimit)
	}
	r.Body, r.Sig = body, nil
	if s != nil {
		r.Sig = s.Sign(body)
	}
	if len(r.Sig) > SignatureLimit {
		return r, fmt.Errorf("sign %s %s: the signature has %d bytes, the limit is %d", r.Kind, r.ID, len(r.Sig), SignatureLimit)
	}
	return r, nil
}

// unknownFields are those of the noun of was that no field here has the name of.
func unknownFields(r, was mesh.Record) map[string]json.RawMessage {
	name, _ := toWire(r).noun()
	if name == "" || r.Kind != was.Kind || was.Deleted || was.Body == nil {
		return nil
	}
	w := toWire(was)
	if plain, err := json.Marshal(w); err != nil || bytes.Equal(plain, was.Body) {
		return nil
	}
	_, had := w.noun()
	var whole, noun map[string]json.RawMessage
	if json.Unmarshal(was.Body, &whole) != nil || json.Unmarshal(whole[name], &noun) != nil {
		return nil
	}
	known := fieldNames(had)
	maps.DeleteFunc(noun, func(k string, _ json.RawMessage) bool {
		return slices.ContainsFunc(known, func(have string) bool { return strings.EqualFold(have, k) })
	})
	return noun
}

// noun is the one that a record has, and the name of its field; none in a tombstone. The
// nouns are the pointers among the fields.
func (w wireRecord) noun() (name string, noun any) {
	v := reflect.ValueOf(w)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			return jsonName(v.Type().Field(i)), f.Elem().Interface()
		}
	}
	return "", nil
}

// fieldNames are the JSON names of a struct's fields.
func fieldNames(value any) []string {
	t := reflect.TypeOf(value)
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = jsonName(t.Field(i))
	}
	return names
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// withFields adds fields, in the order of their names, to the noun, which is what a body
// ends with.
func withFields(body []byte, fields map[string]json.RawMessage) ([]byte, error) {
	if len(fields) == 0 {
		return body, nil
	}
	body = body[:len(body)-2]
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		body = append(append(append(append(body, ','), quoted...), ':'), fields[name]...)
	}
	return append(body, "}}"...), nil
}
