package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// idle does something while 10,000 connections to the name server are open that say nothing. The
// server ends the oldest of more than it keeps, which makes no difference to who dials.
func idle(in *space.Space, do func(n int) error) (err error) {
	const most = 10000
	var conns []net.Conn
	defer func() {
		var errs []error
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
		err = errors.Join(append(errs, err)...)
	}()
	err = in.Do(func() error {
		for len(conns) < most {
			c, err := net.DialTimeout("tcp", "127.0.0.11:53", 5*time.Second)
			if err != nil {
				return fmt.Errorf("idle connection %d: %w", len(conns)+1, err)
			}
			conns = append(conns, c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return do(len(conns))
}
