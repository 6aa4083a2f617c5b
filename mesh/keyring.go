package mesh

// Keyring says which key gossip has within one generation of the cluster's CA: it is derived from
// the CA's key and the nonce, so that only who holds the CA's key can make it. Of two writes the
// newer counts. A generation begins without one, by the key that came with it.
type Keyring struct {
	ID     string // the beginning of the CA's pin, hex: one record a generation
	Nonce  string // random, hex
	Before string // the nonce before, which those who are late still use; "": the generation's own key
}

// NonceLength is the number of hex characters of a Keyring's nonce.
const NonceLength = 64

// KeyringRecord wraps a keyring.
func KeyringRecord(k *Keyring) Record { return Record{Kind: KindKeyring, ID: k.ID, Keyring: k} }

// Validate refuses a keyring that no node makes.
func (k *Keyring) Validate() error {
	if err := validID(k.ID); err != nil {
		return err
	}
	if !isHex(k.Nonce, NonceLength) || k.Before != "" && !isHex(k.Before, NonceLength) || k.Nonce == k.Before {
		return Refuse(BadRecord, "update the node that wrote it", "keyring %s is not whole", k.ID)
	}
	return nil
}
