package vm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
)

// rootTag is the name under which the guest mounts the host's root.
const rootTag = "root"

// startFiles starts the server that gives the host's root to the guest. It
// listens before it starts, so that qemu never comes too early.
func (m *machine) startFiles(ctx context.Context) (*exec.Cmd, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: m.path("files"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false) // the child goes on listening
	socket, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	log, err := os.Create(m.path("files.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	server := m.command(ctx, virtiofsd, "--fd=3", "-o", "source=/", "-o", "sandbox=chroot",
		"-o", "cache=always", // the guest is short: what the host changes meanwhile need not be seen
		"--thread-pool-size=2")
	server.ExtraFiles = []*os.File{socket}
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", virtiofsd, err)
	}
	return server, nil
}
