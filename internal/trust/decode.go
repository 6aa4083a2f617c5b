package trust

import (
	"encoding/json"
	"fmt"
)

// formatVersion is the version of all that this package writes as JSON. A reader passes
// over fields that it does not know; what it must know comes with a greater version.
const formatVersion = 1

// decode reads JSON of a bounded size into v, whose version must be known.
func decode(what string, data []byte, limit int, v any) error {
	if len(data) > limit {
		return damaged(what, fmt.Sprintf("it has %d bytes, and %d are allowed", len(data), limit))
	}
	var head struct {
		Version int `json:"v"`
	}
	// The version first: what a later one means by the other fields is not known.
	if err := json.Unmarshal(data, &head); err != nil {
		return damaged(what, printable(err.Error()))
	}
	if head.Version > formatVersion {
		return newer(what, head.Version, formatVersion)
	}
	if head.Version < 1 {
		return damaged(what, "it has no version")
	}
	if err := json.Unmarshal(data, v); err != nil {
		return damaged(what, printable(err.Error()))
	}
	return nil
}

// encode is the inverse of decode for the types of this package, which all can be written.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write %T: %w", v, err)
	}
	return data, nil
}
