package agent

import (
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"github.com/sluice-mesh/sluice/internal/trust"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// leastRoles says of every method who may call it over TCP: the least role that does. A method
// that is not here nobody may call so. On the unix socket all may be called.
//
// A viewer looks. An operator says what the cluster should be, and whom else it lets in, up to
// its own role. What is about the machine that answers (which cluster it is in, a process or a
// path on it) is a node's, as is what would make a node: that one holds the CA's key.
func leastRoles() map[string]trust.Role {
	return map[string]trust.Role{
		sluicev1.AccessService_RenewCertificate_FullMethodName: trust.RoleViewer,

		sluicev1.ClusterService_Init_FullMethodName:       trust.RoleNode,
		sluicev1.ClusterService_Join_FullMethodName:       trust.RoleNode,
		sluicev1.ClusterService_Leave_FullMethodName:      trust.RoleNode,
		sluicev1.ClusterService_RemoveNode_FullMethodName: trust.RoleOperator,
		sluicev1.ClusterService_ListNodes_FullMethodName:  trust.RoleViewer,

		sluicev1.KeyService_RotateKeys_FullMethodName: trust.RoleOperator,
		sluicev1.KeyService_ListKeys_FullMethodName:   trust.RoleViewer, // IDs and ages

		sluicev1.TokenService_CreateToken_FullMethodName: trust.RoleOperator, // and see maySet
		sluicev1.TokenService_ListTokens_FullMethodName:  trust.RoleOperator,
		sluicev1.TokenService_RemoveToken_FullMethodName: trust.RoleOperator,

		sluicev1.NetworkService_CreateNetwork_FullMethodName: trust.RoleOperator,
		sluicev1.NetworkService_GetNetwork_FullMethodName:    trust.RoleViewer,
		sluicev1.NetworkService_ListNetworks_FullMethodName:  trust.RoleViewer,
		sluicev1.NetworkService_RemoveNetwork_FullMethodName: trust.RoleOperator,
		sluicev1.NetworkService_UpdateNetwork_FullMethodName: trust.RoleOperator,

		sluicev1.ServiceService_CreateService_FullMethodName: trust.RoleOperator,
		sluicev1.ServiceService_ListServices_FullMethodName:  trust.RoleViewer,
		sluicev1.ServiceService_GetService_FullMethodName:    trust.RoleViewer,
		sluicev1.ServiceService_UpdateService_FullMethodName: trust.RoleOperator,
		sluicev1.ServiceService_RemoveService_FullMethodName: trust.RoleOperator,

		sluicev1.EndpointService_AttachEndpoint_FullMethodName:     trust.RoleNode,
		sluicev1.EndpointService_ConnectEndpoint_FullMethodName:    trust.RoleOperator,
		sluicev1.EndpointService_DisconnectEndpoint_FullMethodName: trust.RoleOperator,
		sluicev1.EndpointService_GetEndpoint_FullMethodName:        trust.RoleViewer,
		sluicev1.EndpointService_DrainEndpoint_FullMethodName:      trust.RoleOperator,
		sluicev1.EndpointService_DetachEndpoint_FullMethodName:     trust.RoleOperator,
		sluicev1.EndpointService_ListEndpoints_FullMethodName:      trust.RoleViewer,

		sluicev1.StatusService_GetStatus_FullMethodName:  trust.RoleViewer,
		sluicev1.StatusService_GetPlan_FullMethodName:    trust.RoleViewer,
		sluicev1.StatusService_Explain_FullMethodName:    trust.RoleViewer,
		sluicev1.EventService_WatchEvents_FullMethodName: trust.RoleViewer,
		sluicev1.WatchService_Watch_FullMethodName:       trust.RoleViewer,
		sluicev1.DoctorService_Examine_FullMethodName:    trust.RoleOperator, // it may load kernel modules

		grpc_health_v1.Health_Check_FullMethodName: trust.RoleViewer,
		grpc_health_v1.Health_List_FullMethodName:  trust.RoleViewer,
		grpc_health_v1.Health_Watch_FullMethodName: trust.RoleViewer,

		reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      trust.RoleViewer,
		reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: trust.RoleViewer,
	}
}
