package cluster

import "os/exec"

// sleeper stays until it is stopped; talker says something and fails.
func sleeper() *exec.Cmd { return exec.Command("sleep", "60") }

func talker() *exec.Cmd { return exec.Command("sh", "-c", "echo out of luck; exit 3") }
