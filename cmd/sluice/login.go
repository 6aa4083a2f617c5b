package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-mesh/sluice/internal/login"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// loginVerb changes a token for a certificate on this machine.
func (a *app) loginVerb() *cobra.Command {
	var out format
	var text, name string
	cmd := &cobra.Command{
		Use:   "login ADDR[:PORT] --token TOKEN",
		Short: "Let this user ask a cluster's nodes from this machine, by a token for an operator or viewer",
		Long: "Let this user ask a cluster's nodes from this machine, by a token of \"sluice token create --role operator\" or viewer.\n" +
			"ADDR:PORT is that of the API of any node (sluice agent --api), 7957 where no port is given. A key and the certificate\n" +
			"for it are kept in the user's directory for settings; \"sluice --host tcp://ADDR:PORT\" uses them, with any node of the\n" +
			"cluster. A login that is used renews itself. It ends when a node is removed from the cluster: log in again.",
		Args: words("ADDR[:PORT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := apiHost(strings.TrimPrefix(args[0], "tcp://"))
			if err != nil {
				return err
			}
			if text == "" {
				return fmt.Errorf("--token is missing, \"sluice token create --role operator\" prints one")
			}
			if name == "" {
				name = personName()
			}
			l, err := a.logIn(cmd.Context(), host, text, name)
			if err != nil {
				return failureOf("log in at "+host, err)
			}
			who := l.Who()
			resp := &sluicev1.Login{Host: "tcp://" + host, Role: string(who.Role), Name: who.Name, Expires: timestamppb.New(who.NotAfter)}
			return out.print(cmd, resp, func(p *page) {
				p.line(fmt.Sprintf("%s is %s of the cluster, until %s and longer where it is used. Try:", resp.GetName(), resp.GetRole(), moment(resp.GetExpires())))
				p.line("")
				p.line(fmt.Sprintf("  sluice --host %s status", resp.GetHost()))
			})
		},
	}
	cmd.Flags().StringVar(&text, "token", "", "the `TOKEN` of an operator or viewer")
	cmd.Flags().StringVar(&name, "name", "", "the `NAME` by which logs call this user (default USER.HOST)")
	out.addTo(cmd)
	return cmd
}

// logoutVerb forgets a login.
func (a *app) logoutVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "logout ADDR[:PORT]",
		Short: "Forget the login that was made by a node; the cluster is not told",
		Args:  words("ADDR[:PORT]"),
		RunE: func(_ *cobra.Command, args []string) error {
			host, err := apiHost(strings.TrimPrefix(args[0], "tcp://"))
			if err != nil {
				return err
			}
			logins, err := login.Home()
			if err == nil {
				err = logins.Remove(host)
			}
			if err != nil {
				return failureOf("log out at "+host, err)
			}
			return nil
		},
	}
}

func (a *app) logIn(ctx context.Context, host, text, name string) (*login.Login, error) {
	token, err := trust.ParseJoinToken(text)
	if err != nil {
		return nil, err
	}
	logins, err := login.Home()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	const do = "check the address and port, and that the agent there runs with --api"
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, mesh.Refuse(login.NoLogin, do, "no agent answers: %v", err)
	}
	defer conn.Close()
	l, err := login.Make(ctx, conn, login.Asking{Host: host, Token: token, Name: name, Now: time.Now})
	if err != nil && mesh.ReasonOf(err) == "" {
		return nil, mesh.Refuse(login.NoLogin, do, "what is there lets nobody in: %v", err)
	}
	if err != nil {
		return nil, err
	}
	return l, logins.Put(l)
}

// renew asks for another certificate where it is time. Where that fails the next call asks again:
// there are months for it.
func (c call) renew(ctx context.Context, conn grpc.ClientConnInterface, t target) {
	if t.login == nil || !t.login.Due() {
		return
	}
	resp, err := sluicev1.NewAccessServiceClient(conn).RenewCertificate(ctx, &sluicev1.RenewCertificateRequest{})
	if err != nil {
		return
	}
	next, err := t.login.Renewed(resp.GetCertificate())
	if err != nil {
		return
	}
	if logins, err := login.Home(); err == nil {
		_ = logins.Put(next) // see above
	}
}

// personName is who runs this, as certificates may say it.
func personName() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "." + host
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '.' || r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
			return r
		}
		return '-'
	}, name)
	if name = name[:min(len(name), 63)]; mesh.ValidateName("operator", name) != nil {
		return "somebody"
	}
	return name
}
