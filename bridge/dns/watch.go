package dns

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// WatchConf reads the resolv.conf at path and gives it to changed, now and whenever its text is
// another, until ctx ends; then it returns nil. The file is read every interval instead of
// watched for events: it is often a link into a directory that somebody replaces, or mounted
// over. A file that is missing for a while leaves things as they were; only if it cannot be
// read at the beginning is that an error.
func WatchConf(ctx context.Context, path string, every time.Duration, changed func(Conf)) error {
	last, err := readConf(path)
	if err != nil {
		return err
	}
	changed(ParseConf(last))
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if text, err := readConf(path); err == nil && text != last {
			last = text
			changed(ParseConf(text))
		}
	}
}

func readConf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read resolver list: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConf))
	if err != nil {
		return "", fmt.Errorf("read resolver list %s: %w", path, err)
	}
	return string(text), nil
}
