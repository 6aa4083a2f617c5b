package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unitFile is the service as it is installed.
var unitFile = filepath.Join("..", "..", "..", "deploy", "systemd", "sluice.service")

// ownMounts are the options of systemd.exec(5) that give a service a mount
// namespace of its own, old spellings and those of newer versions included.
var ownMounts = []string{
	"BindLogSockets", "BindPaths", "BindReadOnlyPaths", "DelegateNamespaces", "DynamicUser", "ExecPaths", "ExtensionDirectories",
	"ExtensionImages", "IPCNamespacePath", "InaccessibleDirectories", "InaccessiblePaths", "JoinsNamespaceOf", "LogNamespace",
	"MountAPIVFS", "MountFlags", "MountImages", "NetworkNamespacePath", "NoExecPaths", "PrivateBPF", "PrivateDevices", "PrivateIPC",
	"PrivateMounts", "PrivateNetwork", "PrivatePIDs", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectControlGroups",
	"ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
	"ReadOnlyDirectories", "ReadOnlyPaths", "ReadWriteDirectories", "ReadWritePaths", "RootDirectory", "RootHash", "RootImage",
	"RootImageOptions", "RootVerity", "TemporaryFileSystem", "UserNamespacePath",
}

// mountOptions are those of ownMounts that a unit has, whatever their value.
func mountOptions(unit string) []string {
	var found []string
	for line := range strings.Lines(unit) {
		key, _, assigns := strings.Cut(strings.TrimSpace(line), "=")
		if key = strings.TrimSpace(key); assigns && slices.Contains(ownMounts, key) {
			found = append(found, key)
		}
	}
	return found
}

// Sandboxes that are mounted in a mount namespace of the agent's own would die with it.
func TestUnitHasNoMountNamespace(t *testing.T) {
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	if found := mountOptions(string(text)); len(found) > 0 {
		t.Errorf("%s gives the agent a mount namespace by %v", unitFile, found)
	}
	bad := "[Service]\n# PrivateMounts=no\nPrivateTmp=yes\n  ProtectSystem = full\nRuntimeDirectory=x\nExecStart=/x ReadWritePaths=/\n"
	if found := mountOptions(bad); !slices.Equal(found, []string{"PrivateTmp", "ProtectSystem"}) {
		t.Errorf("the test finds %v in a bad unit", found)
	}
}
