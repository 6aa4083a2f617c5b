// Package dns gives every endpoint its names: a DNS server at 127.0.0.11 in the
// endpoint's own namespace, which answers what the cluster knows by itself and asks the
// host's resolvers for everything else.
//
//	        UDP, TCP                 names of the cluster
//	asker ───────────► Server ──┬──► Zone       at once, in the goroutine that read the query
//	(an endpoint)               ├──► cache      the same
//	                            └──► Forwarder  in a goroutine of its own ──► upstream resolvers
//
// A Zone is pure and immutable: names in, answers out. What an asker is told depends on the
// networks it is on and on its stack. A Resolver holds the Zone of the moment and is shared
// by all Servers of a node; each Server speaks for one asker, on sockets that somebody else
// opened in that asker's namespace. The Forwarder shares one cache, one list of upstreams and
// one set of limits among all askers.
//
// Invariant: an answer from the Zone or from the cache never waits for an upstream.
// Invariant: an asker that is on internal networks only causes no packet outside.
// Invariant: no message from an asker or an upstream makes memory grow beyond Limits.
package dns
