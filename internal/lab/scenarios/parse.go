package scenarios

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/mesh"
)

// words are what of a line is not read yet.
type words struct{ left []string }

func (w *words) next() string {
	if len(w.left) == 0 {
		return ""
	}
	first := w.left[0]
	w.left = w.left[1:]
	return first
}

// take reads the next word if it is this one.
func (w *words) take(word string) bool {
	if len(w.left) > 0 && w.left[0] == word {
		w.left = w.left[1:]
		return true
	}
	return false
}

func (w *words) need(what string) (string, error) {
	if word := w.next(); word != "" {
		return word, nil
	}
	return "", fmt.Errorf("%s is missing", what)
}

func (w *words) number(what string) (int, error) {
	word, err := w.need(what)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q is not a number", what, word)
	}
	return n, nil
}

type verb func(w *words) (func(r *run, s Step), error)

// verbs are all that a line may begin with: adding one is a line here and a function.
func verbs() map[string]verb {
	return map[string]verb{
		"service": parseService, "update": parseUpdate, "rename": parseRename, "remove": parseRemove,
		"endpoint": parseEndpoint, "weight": parseWeight, "leave": parseLeave,
		"drain": parseState(mesh.Draining), "ready": parseState(mesh.Ready),
		"gone": parseGone, "back": parseBack, "held": parseHeld, "free": parseFree, "settle": parseSettle,
		"dial": parseDial, "hold": parseHold, "ask": parseAsk, "oneport": parseOnePort,
		"same": parseSame, "note": parseNote, "moved": parseMoved, "spread": parseSpread, "stick": parseStick,
		"services": parseMany,
	}
}

func parseStep(line string) (func(r *run, s Step), error) {
	w := &words{strings.Fields(line)}
	name := w.next()
	parse := verbs()[name]
	if parse == nil {
		return nil, fmt.Errorf("there is no verb %q", name)
	}
	step, err := parse(w)
	if err == nil && len(w.left) > 0 {
		err = fmt.Errorf("%q is too much", strings.Join(w.left, " "))
	}
	return step, err
}

// How is the protocol and family of a question.
type How struct {
	Proto mesh.Proto
	Six   bool
}

// String is "tcp v4".
func (h How) String() string {
	if h.Six {
		return string(h.Proto) + " v6"
	}
	return string(h.Proto) + " v4"
}

// Hows are all four, in the order of the table.
func Hows() []How {
	return []How{{mesh.TCP, false}, {mesh.TCP, true}, {mesh.UDP, false}, {mesh.UDP, true}}
}

// hows reads the words that name protocols and families; none: all.
func (w *words) hows() []How {
	var named []string
	for len(w.left) > 0 && slices.Contains([]string{"tcp", "udp", "v4", "v6"}, w.left[0]) {
		named = append(named, w.next())
	}
	one := func(list ...string) bool {
		return slices.ContainsFunc(named, func(s string) bool { return slices.Contains(list, s) })
	}
	return slices.DeleteFunc(Hows(), func(h How) bool {
		family := "v4"
		if h.Six {
			family = "v6"
		}
		return one("tcp", "udp") && !slices.Contains(named, string(h.Proto)) || one("v4", "v6") && !slices.Contains(named, family)
	})
}

// target is what is dialled: one or more places of one port.
type target struct {
	at   []string
	port uint16
}

func (w *words) target() (t target, err error) {
	word, err := w.need("what is dialled")
	if err != nil {
		return t, err
	}
	at, port, ok := strings.Cut(word, ":")
	n, bad := strconv.ParseUint(port, 10, 16)
	if !ok || bad != nil || n == 0 {
		return t, fmt.Errorf("%q is not NODE:PORT", word)
	}
	t = target{strings.Split(at, ","), uint16(n)}
	for _, a := range t.at {
		if !slices.Contains(places(), a) && !strings.Contains(a, "@") {
			return t, fmt.Errorf("nothing is called %q: dial one of %s", a, strings.Join(places(), ", "))
		}
	}
	return t, nil
}

func (w *words) single() (target, error) {
	t, err := w.target()
	if err == nil && len(t.at) != 1 {
		err = errors.New("one node is dialled here")
	}
	return t, err
}

// want is what a question expects.
type want struct {
	names  []string // sorted; or one of the failures
	source string   // "": any
}

func (w want) String() string {
	text := strings.Join(w.names, "|")
	if w.source != "" {
		text += " source " + w.source
	}
	return text
}

func (w *words) want() (want, error) {
	if !w.take("->") {
		return want{}, errors.New(`"-> OUTCOME" is missing`)
	}
	word, err := w.need("who answers")
	if err != nil {
		return want{}, err
	}
	expected := want{names: strings.Split(word, "|")}
	slices.Sort(expected.names)
	if w.take("source") {
		expected.source, err = w.need("the source")
	}
	return expected, err
}
