package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/login"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// target is where an agent is asked: on this machine's socket, or over TCP with a login.
type target struct {
	path  string // of the socket; "" over TCP
	host  string // ADDR:PORT
	login *login.Login
}

// String is what --host is given.
func (t target) String() string {
	if t.path != "" {
		return "unix://" + t.path
	}
	return "tcp://" + t.host
}

// target reads --host. Errors are failures, but for one about a host that cannot be read.
func (a *app) target(what string) (target, error) {
	host := a.host
	if host == "" {
		host = os.Getenv("SLUICE_HOST")
	}
	if host == "" {
		host = defaultHost
	}
	if path, ok := strings.CutPrefix(host, "unix://"); ok && filepath.IsAbs(path) {
		return target{path: path}, nil
	}
	remote, ok := strings.CutPrefix(host, "tcp://")
	if !ok {
		return target{}, fmt.Errorf("host %q is not unix:///PATH or tcp://ADDR:PORT", host)
	}
	at, err := apiHost(remote)
	if err != nil {
		return target{}, err
	}
	logins, err := login.Home()
	if err != nil {
		return target{}, failureOf(what, err)
	}
	with, err := logins.For(at, time.Now)
	if err != nil {
		return target{}, failureOf(what, err)
	}
	return target{host: at, login: with}, nil
}

// apiHost is ADDR:PORT of ADDR or ADDR:PORT.
func apiHost(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), strconv.Itoa(int(agent.DefaultAPIPort))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ ") {
		return "", fmt.Errorf("%q is not ADDR or ADDR:PORT, an IPv6 address with a port in brackets", text)
	}
	return net.JoinHostPort(host, port), nil
}

// failureOf is a failure of what this machine did itself; a refusal says what to do.
func failureOf(what string, err error) *failure {
	if r, ok := errors.AsType[*mesh.Refusal](err); ok {
		return &failure{what: what, why: r.Why, do: r.Do}
	}
	return &failure{what: what, why: err.Error()}
}

// dialer connects to a target and keeps why it could not: gRPC passes that
// on only as a sentence.
type dialer struct {
	to  target
	mu  sync.Mutex
	err error
}

// dial is called by gRPC, from a goroutine of its own.
func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := d.connect(ctx)
	d.note(err)
	return conn, err
}

func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	if d.to.path != "" {
		return new(net.Dialer).DialContext(ctx, "unix", d.to.path)
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", d.to.host)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, d.to.login.TLS())
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	greeted, err := d.greeted(ctx, conn)
	if err != nil {
		raw.Close()
	}
	return greeted, err
}

// greeted waits for the node's first word, which it says before it has heard any: TLS 1.3 tells
// only who reads that a certificate is not taken, and nothing may have been written by then, or
// the end of the connection could overtake it.
func (d *dialer) greeted(ctx context.Context, conn *tls.Conn) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	reader := bufio.NewReader(conn)
	_, err := reader.Peek(1)
	if trust.RefusedByPeer(err) {
		return nil, mesh.Refuse(trust.WrongCluster, login.Again, "the node does not take the login of %s: it has ended, or a node was removed since, which ends all logins", d.to.login.Who())
	}
	return greetedConn{conn, reader}, err
}

// greetedConn is a connection of which something was read already.
type greetedConn struct {
	net.Conn
	reader *bufio.Reader
}

// Read reads what was read already first.
func (c greetedConn) Read(b []byte) (int, error) { return c.reader.Read(b) }

func (d *dialer) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// failed is why the last attempt to connect failed, or nil.
func (d *dialer) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
