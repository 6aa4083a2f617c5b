package kernel

import (
	"fmt"
	"syscall"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// route changes a rule or a route.
func (s *fakeSpace) route(op Op) error {
	switch o := op.Object.(type) {
	case plan.Rule:
		return put(op.Verb, &s.Rules, o, ruleKey, needsRule(o))
	case plan.Route:
		return put(op.Verb, &s.Routes, o, routeKey, s.needsRoute(o))
	default:
		return fmt.Errorf("%T: %w", op.Object, syscall.EINVAL)
	}
}

func (s *fakeSpace) needsRoute(r plan.Route) error {
	if r.Dst != r.Dst.Masked() || r.Kind == plan.RouteVia && r.Via.Is4() != r.Dst.Addr().Is4() {
		return syscall.EINVAL
	}
	if r.Table != 0 && s.Kind != plan.KindEndpoint {
		return syscall.EINVAL // would be nobody's afterwards
	}
	if r.Kind == plan.RouteUnreachable {
		return nil
	}
	return s.needs(r.Link)
}

func needsRule(r plan.Rule) error {
	if !r.From.IsValid() || r.Table == 0 || !plan.IsOwnRule(r.Priority) {
		return syscall.EINVAL
	}
	return nil
}
