package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// Explain walks packets through the plans and compares with this node's kernel.
func (s *statusServer) Explain(ctx context.Context, req *sluicev1.ExplainRequest) (*sluicev1.ExplainResponse, error) {
	var from netip.Addr
	if text := req.GetFrom(); text != "" {
		var err error
		if from, err = netip.ParseAddr(text); err != nil || from.Zone() != "" {
			return nil, mesh.Refuse(mesh.BadAddress, "write an IPv4 or IPv6 address", "client %.60q is no address", text)
		}
		from = from.Unmap()
	}
	e, err := s.loop.examine(ctx)
	if err != nil {
		return nil, err
	}
	dials, err := e.dials(req.GetTarget(), from)
	if err != nil {
		return nil, err
	}
	var walks []walk
	for _, d := range dials {
		c, err := e.clientOf(d, from)
		if err != nil {
			return nil, err
		}
		q := e.question(d, c)
		hops, err := trace.Walk(q)
		if err != nil {
			return nil, fmt.Errorf("walk %s: %w", q, err)
		}
		walks = append(walks, walk{q.String(), hops})
	}
	return e.explain(walks), nil
}

// walk is one packet and its way.
type walk struct {
	packet string
	hops   []trace.Hop
}

// explain compares all walks with the kernel at once: a difference that one of
// them meets is not another one's surplus.
func (e *evidence) explain(walks []walk) *sluicev1.ExplainResponse {
	var all []trace.Hop
	for _, w := range walks {
		all = append(all, w.hops...)
	}
	resp := &sluicev1.ExplainResponse{OtherDifferences: uint32(trace.Compare(all, e.label(e.self), e.differences))}
	resp.Verdict = trace.Verdict(all)
	at, told := 0, false
	for _, w := range walks {
		hops := all[at : at+len(w.hops)]
		at += len(w.hops)
		for _, h := range hops {
			resp.Hops = append(resp.Hops, toHop(w.packet, h))
			if h.State == trace.Broken && !told && len(walks) > 1 {
				resp.Verdict, told = w.packet+": "+trace.Verdict(hops), true
			}
		}
	}
	return resp
}

func toHop(packet string, h trace.Hop) *sluicev1.Hop {
	out := &sluicev1.Hop{
		Packet: packet, Number: uint32(h.Number), Node: h.Node, Sandbox: h.Sandbox, What: h.What, Command: h.Command, Why: h.Why,
	}
	if h.Backend.IsValid() {
		out.Backend = h.Backend.String()
	}
	for _, o := range h.Relies {
		if o.Line != "" {
			out.Plan = append(out.Plan, o.Sandbox+": "+o.Line)
		}
	}
	switch h.State {
	case trace.OK:
		out.State = sluicev1.HopState_HOP_STATE_OK
	case trace.Unchecked:
		out.State = sluicev1.HopState_HOP_STATE_UNCHECKED
	case trace.Broken:
		out.State = sluicev1.HopState_HOP_STATE_BROKEN
	}
	return out
}
