// Package trust says who is who in a cluster, and who may do what.
//
//	Key ── its hash is the node's ID: nobody else can speak as this node
//	 │
//	 ├─ Sign ──────── a record is its writer's word, whoever passes it on
//	 ├─ Open ──────── what was sealed to this node (a new CA, new gossip keys)
//	 └─ certificate ─ Authority.Issue: a member, and of what Role
//	                       │
//	Credentials ── Server, Client: TLS that knows members alone
//	     │
//	    Door ── Join: a token and a new key become a member
//	            Return: a node that was away while the CA was replaced
//
// An Authority is the cluster's CA. Every node holds its key, since any node may
// admit another. Removing a node therefore makes the next generation: whoever
// held the old key, and all that it issued or could issue, counts no more.
//
// The package is a library: it opens no socket and no file, and starts no
// goroutine: Credentials.Run is the caller's.
package trust
