package pipeline

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// A password waits in two halves for its file to be read: sealed in a blob, and the key to that in the document's record.
// Neither store says anything alone, and once the file was read, or given up, the blob goes: keys that remain in old
// versions of records, or in backups of them, open nothing.

// maxSealed bounds a sealed password.
const maxSealed = 64 << 10

// sealedKey is the blob that a key opens.
func sealedKey(key []byte) string {
	sum := sha256.Sum256(key)
	return "secrets/" + hex.EncodeToString(sum[:16])
}

func sealer(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "the key of a password: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal stores a password and returns its key, nil for no password. Invalid for one that no file has.
func Seal(ctx context.Context, b *blob.Bucket, password string) ([]byte, error) {
	if password == "" {
		return nil, nil
	}
	if len(password) > maxSealed/2 {
		return nil, clara.Errorf(clara.Invalid, "a password of %d bytes is none", len(password))
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	aead, err := sealer(key)
	if err != nil {
		return nil, err
	}
	return key, b.PutBytes(ctx, sealedKey(key), aead.Seal(nil, nil, []byte(password), nil))
}

// unseal returns the password of a key, "" for none. NotFound if it has gone.
func unseal(ctx context.Context, b *blob.Bucket, key []byte) (string, error) {
	if len(key) == 0 {
		return "", nil
	}
	aead, err := sealer(key)
	if err != nil {
		return "", err
	}
	sealed, err := b.ReadAll(ctx, sealedKey(key), maxSealed)
	if err != nil {
		return "", err
	}
	password, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return "", clara.Errorf(clara.Corrupt, "open sealed password: %w", err)
	}
	return string(password), nil
}

// takeKey takes the key to the password out of a record.
func takeKey(d *ingestv1.Document) []byte {
	key := d.PasswordKey
	d.PasswordKey = nil
	return key
}

// Forget removes a sealed password that nothing waits for any more. What cannot be removed now goes with a sweep.
func (p *Pipeline) Forget(ctx context.Context, key []byte) {
	if len(key) == 0 {
		return
	}
	if err := p.Files.Delete(ctx, sealedKey(key)); err != nil && clara.KindOf(err) != clara.NotFound {
		p.Log.WarnContext(ctx, "remove sealed password", "err", err)
	}
}
