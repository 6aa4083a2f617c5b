package agent

import "github.com/sluice-mesh/sluice/mesh"

// The reasons that only the agent gives. Those of package mesh and of
// internal/plan reach the API unchanged beside them.
const (
	InCluster        mesh.Reason = "InCluster"        // init or join on a node that is in a cluster
	NoCluster        mesh.Reason = "NoCluster"        // a verb that needs a cluster
	JoinFailed       mesh.Reason = "JoinFailed"       // a member answered, and the cluster cannot be seen from it
	NotHere          mesh.Reason = "NotHere"          // the endpoint is on another node
	NamespaceTaken   mesh.Reason = "NamespaceTaken"   // the namespace is an endpoint already
	AlreadyConnected mesh.Reason = "AlreadyConnected" // the endpoint is on the network
	NoInterface      mesh.Reason = "NoInterface"      // the service has neither a network nor a published port
	NotUsable        mesh.Reason = "NotUsable"        // the kernel refused a part of the endpoint
	Stopping         mesh.Reason = "Stopping"         // the agent ends
	DataDirInUse     mesh.Reason = "DataDirInUse"     // another agent has the data directory
	DataDamaged      mesh.Reason = "DataDamaged"      // the store cannot be read
	DataVersion      mesh.Reason = "DataVersion"      // the store is of another version
	DiskFull         mesh.Reason = "DiskFull"         // the store cannot grow
	DiskReadOnly     mesh.Reason = "DiskReadOnly"     // the store cannot be written
	DiskFailing      mesh.Reason = "DiskFailing"      // the store's disk gives errors
	RunDirInUse      mesh.Reason = "RunDirInUse"      // another agent answers on the socket
	NoCertificate    mesh.Reason = "NoCertificate"    // a call that is about the caller's certificate, by who has none
	NotAllowed       mesh.Reason = "NotAllowed"       // over TCP, by who has a lesser role
	TooManyCalls     mesh.Reason = "TooManyCalls"     // over TCP, of one caller or of all
	NoKeys           mesh.Reason = "NoKeys"           // a node that came in beside a removal, and has none of the keys that followed
	BadConfig        mesh.Reason = "BadConfig"        // a setting of the agent
	TunnelSilent     mesh.Reason = "TunnelSilent"     // gossip hears the node, its kernel does not answer through the tunnel
	EchoFailed       mesh.Reason = "EchoFailed"       // other nodes' kernels cannot be asked from here
	FeatureMissing   mesh.Reason = "FeatureMissing"   // the kernel cannot do what the mesh needs
)
