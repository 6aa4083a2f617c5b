package matrix

// Rows are the expectations. An endpoint of an internal network has no way out, so that no
// port of its node leads to it: what is published there answers nobody.
func Rows() []Row {
	return []Row{
		{Host, Published, AtNode, "1.5, 1.9", want(Dialled, No, Dialled, Dialled)},
		{Host, Unpublished, AtEndpoint, "1.2", want(Gateway, Gateway, Gateway, Gateway)},
		{Host, OnLoopback, AtNode, "1.4", nobody()},
		{Host, OnAddress, AtSecond, "1.5, 1.9", want(Dialled, No, Dialled, Dialled)},
		{Host, Elsewhere, AtNode, "1.4", nobody()},

		{Loopback, Published, AtLoopback, "1.5, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Loopback, Unpublished, AtLoopback, "1.2", nobody()},
		{Loopback, OnLoopback, AtLoopback, "1.5, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Loopback, Elsewhere, AtLoopback, "1.4", nobody()},

		{Itself, Published, AtNode, "1.6, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Itself, Unpublished, AtNode, "1.2", nobody()},
		{Itself, OnLoopback, AtNode, "1.4", nobody()},
		{Itself, OnAddress, AtSecond, "1.6, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Itself, Elsewhere, AtNode, "1.4", nobody()},

		{Same, Published, AtNode, "1.6, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Same, Published, AtEndpoint, "1.8", want(Own, Own, No, Own)},
		{Same, Unpublished, AtEndpoint, "1.8", want(Own, Own, No, Own)},
		{Same, OnLoopback, AtNode, "1.4", nobody()},
		{Same, OnAddress, AtSecond, "1.6, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Same, Elsewhere, AtNode, "1.4", nobody()},

		{Other, Published, AtNode, "1.6, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Other, Published, AtEndpoint, "1.7", nobody()},
		{Other, Unpublished, AtEndpoint, "1.7", nobody()},
		{Other, OnLoopback, AtNode, "1.4", nobody()},
		{Other, OnAddress, AtSecond, "1.6, 1.9", want(Gateway, No, Gateway, Gateway)},
		{Other, Elsewhere, AtNode, "1.4", nobody()},

		{Outside, Published, AtNode, "1.4, 1.9", want(Own, No, Own, Own)},
		{Outside, Unpublished, AtNode, "1.2", nobody()},
		{Outside, OnLoopback, AtNode, "1.4", nobody()},
		{Outside, OnAddress, AtSecond, "1.4, 1.9", want(Own, No, Own, Own)},
		{Outside, Elsewhere, AtNode, "1.4", nobody()},

		{Forged, Published, AtEndpoint, "1.3", want(No, No, No, Own)},
		{Forged, Unpublished, AtEndpoint, "1.3", want(No, No, No, Own)},
		{Forged, OnLoopback, AtEndpoint, "1.3", want(No, No, No, Own)},
		{Forged, OnAddress, AtEndpoint, "1.3", want(No, No, No, Own)},

		{Neighbour, Published, AtLoopback, "1.4", nobody()},
		{Neighbour, Unpublished, AtLoopback, "1.2", nobody()},
		{Neighbour, OnLoopback, AtLoopback, "1.4", nobody()},
		{Neighbour, OnAddress, AtLoopback, "1.4", nobody()},
	}
}

func want(nat, internal, apart, routed Want) [4]Want { return [4]Want{nat, internal, apart, routed} }

func nobody() [4]Want { return want(No, No, No, No) }
