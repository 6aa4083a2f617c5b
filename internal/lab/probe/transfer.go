package probe

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Transfer is a stream of Size bytes, no two parts of it alike, sent evenly over
// that time.
type Transfer struct {
	Size int64
	Over time.Duration
}

// content is what is sent, at its pace.
func (t Transfer) content() io.Reader {
	return &paced{from: io.LimitReader(rand.NewChaCha8([32]byte{}), t.Size), rate: float64(t.Size) / t.Over.Seconds(), began: time.Now()}
}

// sum is of all of it.
func (t Transfer) sum() (string, error) {
	t.Over = time.Millisecond // nobody waits for it
	return sumOf(t.content())
}

func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d bytes, %x", n, h.Sum(nil)), err
}

// paced lets rate bytes a second through.
type paced struct {
	from  io.Reader
	rate  float64
	began time.Time
	read  float64
}

func (p *paced) Read(b []byte) (int, error) {
	const least = 50 * time.Millisecond
	room := time.Since(p.began).Seconds()*p.rate - p.read
	if room < 1 {
		time.Sleep(least)
		room = max(time.Since(p.began).Seconds()*p.rate-p.read, 1)
	}
	n, err := p.from.Read(b[:min(len(b), int(room))])
	p.read += float64(n)
	return n, err
}

// transfers are the server's side: /paced?size=N&over=DURATION sends a Transfer,
// /sum answers with the length and the hash of what was sent to it.
func transfers(mux *http.ServeMux) {
	mux.HandleFunc("/paced", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.ParseInt(r.FormValue("size"), 10, 64)
		over, err2 := time.ParseDuration(r.FormValue("over"))
		if err != nil || err2 != nil || over <= 0 {
			http.Error(w, "size or over is missing", http.StatusBadRequest)
			return
		}
		_, _ = io.Copy(w, Transfer{size, over}.content()) // a client that goes away is its own business
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		sum, err := sumOf(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, sum)
	})
}

// Pull has the server named by send a Transfer, and tells how it did not come whole.
func (c Client) Pull(to netip.AddrPort, by string, t Transfer) error {
	return c.transfer(to, by, t, func(flow *Flow) (string, error) {
		req, err := http.NewRequest("GET", fmt.Sprintf("http://lab/paced?size=%d&over=%s", t.Size, t.Over), nil)
		if err != nil {
			return "", err
		}
		if err := req.Write(flow.conn); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(flow.r, req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		return sumOf(resp.Body)
	})
}

// Push sends a Transfer to the server named by, and tells how it did not come whole.
func (c Client) Push(to netip.AddrPort, by string, t Transfer) error {
	return c.transfer(to, by, t, func(flow *Flow) (string, error) {
		text, err := exchange(flow.conn, flow.r, "POST", "/sum", t.content())
		return strings.TrimSpace(text), err
	})
}

// transfer does it on a connection to the server named by, and compares.
func (c Client) transfer(to netip.AddrPort, by string, t Transfer, do func(*Flow) (string, error)) error {
	want, err := t.sum()
	if err != nil {
		return err
	}
	flow, err := c.find(to, by)
	if err != nil {
		return fmt.Errorf("transfer with %s at %s: %w", by, to, err)
	}
	defer flow.Close()
	if err := flow.conn.SetDeadline(time.Now().Add(t.Over + 10*c.Wait)); err != nil {
		return err
	}
	got, err := do(flow)
	if err == nil && got != want {
		err = fmt.Errorf("got %s, want %s", got, want)
	}
	if err != nil {
		return fmt.Errorf("transfer with %s at %s: %w", by, to, err)
	}
	return nil
}

// find opens connections until one leads to the server of that name.
func (c Client) find(to netip.AddrPort, name string) (*Flow, error) {
	const tries = 20
	for range tries {
		flow, err := c.Open("tcp", to)
		if err != nil {
			return nil, err
		}
		a, err := flow.Ask()
		if err == nil && a.Name == name {
			return flow, nil
		}
		flow.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("none of %d connections led to it", tries)
}
