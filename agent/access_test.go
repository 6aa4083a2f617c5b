package agent

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// Every method that is served has a line that says who may call it, and no line is of none.
func TestEveryMethodHasARole(t *testing.T) {
	s := grpc.NewServer()
	(&api{}).register(s)
	least := leastRoles()
	for name, service := range s.GetServiceInfo() {
		for _, m := range service.Methods {
			method := "/" + name + "/" + m.Name
			if _, err := trust.ParseRole(string(least[method])); err != nil {
				t.Errorf("%s: %v", method, err)
			}
			delete(least, method)
		}
	}
	if len(least) > 0 {
		t.Errorf("not served: %v", least)
	}
}

// invoke calls any method with a request without fields, and gives the first answer's error.
func invoke(t *testing.T, conn *grpc.ClientConn, method string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	_ = stream.SendMsg(&emptypb.Empty{}) // what is wrong is said below
	_ = stream.CloseSend()
	return stream.RecvMsg(&emptypb.Empty{})
}

func TestEveryRoleWithEveryMethod(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	const (
		leave  = sluicev1.ClusterService_Leave_FullMethodName
		renew  = sluicev1.AccessService_RenewCertificate_FullMethodName // of a node: see there
		tokens = sluicev1.TokenService_CreateToken_FullMethodName       // for nodes, as no role is named
	)
	for _, role := range []trust.Role{trust.RoleViewer, trust.RoleOperator, trust.RoleNode} {
		conn := a.remoteFor(a.credsFor(role))
		for method, least := range leastRoles() {
			if role == trust.RoleNode && (method == leave || method == renew) || role == trust.RoleOperator && method == tokens {
				continue // it works, or is refused for another reason
			}
			err := invoke(t, conn, method)
			if role.May(least) {
				if code := grpcstatus.Code(err); code == codes.PermissionDenied || code == codes.Unauthenticated || code == codes.Unavailable || code == codes.DeadlineExceeded {
					t.Errorf("%s as %s: %v", method, role, err)
				}
				continue
			}
			refused(t, err, NotAllowed, codes.PermissionDenied)
		}
	}
	for method := range leastRoles() { // and nothing is refused on the socket for a role
		if err := invoke(t, a.conn, method); method != leave && grpcstatus.Code(err) == codes.PermissionDenied {
			t.Errorf("%s on the socket: %v", method, err)
		}
	}
}

// A caller makes no tokens above its own role, whatever it calls them.
func TestTokensUpToOnesOwnRole(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	operator := sluicev1.NewTokenServiceClient(a.remoteFor(a.credsFor(trust.RoleOperator)))
	for role, may := range map[string]bool{"": false, "node": false, "operator": true, "viewer": true} {
		_, err := operator.CreateToken(t.Context(), &sluicev1.CreateTokenRequest{Role: role})
		if may && err != nil {
			t.Errorf("role %q: %v", role, err)
		}
		if !may {
			refused(t, err, NotAllowed, codes.PermissionDenied)
		}
	}
	if _, err := sluicev1.NewTokenServiceClient(a.remoteFor(a.credsFor(trust.RoleNode))).CreateToken(t.Context(), &sluicev1.CreateTokenRequest{}); err != nil {
		t.Error(err)
	}
}

// A node does not come in by the API's port: it would know nobody to gossip with.
func TestNoNodeJoinsByTheAPI(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	resp, err := a.tokens.CreateToken(t.Context(), &sluicev1.CreateTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := joinBy(t, resp.GetApiAddress(), trust.NewKey(), must(trust.ParseJoinToken(resp.GetText()))); mesh.ReasonOf(err) != trust.WrongRole {
		t.Errorf("got %v", err)
	}
}

// A service is not put on the port at which the API is called.
func TestThePortOfTheAPIIsReserved(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	_, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: "web", Publish: []string{"7957:80"}})
	refused(t, err, mesh.PortReserved, codes.InvalidArgument)
	a.create("web")
	_, err = a.services.UpdateService(t.Context(), &sluicev1.UpdateServiceRequest{Service: "web", PublishAdd: []string{"7957:80"}})
	refused(t, err, mesh.PortReserved, codes.InvalidArgument)
}

// One caller has so many calls under way and no more, and others' are answered meanwhile.
func TestCallsAreBounded(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	creds := a.credsFor(trust.RoleViewer)
	for range callsOfOne / streamsOfConn {
		client := sluicev1.NewEventServiceClient(a.remoteFor(creds))
		for range streamsOfConn {
			stream, err := client.WatchEvents(t.Context(), &sluicev1.WatchEventsRequest{Follow: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused(t, getStatus(t.Context(), a.remoteFor(creds)), TooManyCalls, codes.ResourceExhausted)
	if err := getStatus(t.Context(), a.remoteFor(a.credsFor(trust.RoleViewer))); err != nil {
		t.Error(err)
	}
}

// By one token for viewers anybody may log in often, and all of them together keep no operator out.
func TestViewersLeaveRoomForOperators(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	operator := a.remoteFor(a.credsFor(trust.RoleOperator))
	resp, err := a.tokens.CreateToken(t.Context(), &sluicev1.CreateTokenRequest{Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	token := must(trust.ParseJoinToken(resp.GetText()))
	stopped := false
	for range callsOfAll / callsOfOne {
		key := trust.NewKey()
		admission := must(joinBy(t, resp.GetApiAddress(), key, token))
		for range callsOfOne / streamsOfConn {
			client := sluicev1.NewEventServiceClient(a.remoteFor(credsOf(key, admission.Authority, admission.Certificate)))
			for range streamsOfConn {
				stream, err := client.WatchEvents(t.Context(), &sluicev1.WatchEventsRequest{Follow: true})
				if err == nil {
					_, err = stream.Recv()
				}
				if err != nil {
					refused(t, err, TooManyCalls, codes.ResourceExhausted)
					stopped = true
					break
				}
			}
		}
	}
	if err := getStatus(t.Context(), operator); err != nil || !stopped {
		t.Errorf("an operator: %v; viewers were stopped: %v", err, stopped)
	}
}

// The manual's table of roles is that of the program.
func TestManualOfRoles(t *testing.T) {
	text := string(must(os.ReadFile("../docs/API.md")))
	told := map[string]trust.Role{}
	for _, role := range []trust.Role{trust.RoleViewer, trust.RoleOperator, trust.RoleNode} {
		_, row, _ := strings.Cut(text, "\n| "+string(role)+" | ")
		row, _, _ = strings.Cut(row, "\n")
		for i, part := range strings.Split(row, "`") {
			if i%2 == 1 {
				told[part] = role
			}
		}
	}
	served := map[string]bool{}
	for method, role := range leastRoles() {
		name := method[strings.LastIndex(method, "/")+1:]
		served[name] = true
		if told[name] != role {
			t.Errorf("%s is for %s, and the manual says %q", name, role, told[name])
		}
	}
	for name := range told {
		if !served[name] {
			t.Errorf("the manual has %s, and it is not served", name)
		}
	}
}
