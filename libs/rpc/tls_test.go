package rpc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/rpctest"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// authority writes a certificate authority and certificates that it signed, all for 127.0.0.1, into files.
func authority(t *testing.T, names ...string) (ca string, certs, keys map[string]string) {
	t.Helper()
	dir := t.TempDir()
	certs, keys = map[string]string{}, map[string]string{}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	require.NoError(t, err)
	ca = write("ca.pem", "CERTIFICATE", der)
	for i, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), caKey)
		require.NoError(t, err)
		certs[name] = write(name+".pem", "CERTIFICATE", der)
		raw, err := x509.MarshalECPrivateKey(key)
		require.NoError(t, err)
		keys[name] = write(name+".key", "EC PRIVATE KEY", raw)
	}
	return ca, certs, keys
}

func TestTLS(t *testing.T) {
	ca, certs, keys := authority(t, "server", "client")
	plain := rpctest.Serve(t, rpc.Config{Listen: loopback, TLSCert: certs["server"], TLSKey: keys["server"]}, rpc.Options{}, mount(jobs{get: echo}))
	mutual := rpctest.Serve(t, rpc.Config{Listen: loopback, TLSCert: certs["server"], TLSKey: keys["server"], TLSClientCA: ca}, rpc.Options{}, mount(jobs{get: echo}))
	tests := []struct {
		name, addr string
		cfg        rpc.ClientConfig
		ok         bool
	}{
		{"TLS", plain.Addr(), rpc.ClientConfig{TLSCA: ca}, true},
		{"TLS, by URL, unknown authority", "https://" + plain.Addr(), rpc.ClientConfig{}, false},
		{"TLS, spoken to in plain text", "http://" + plain.Addr(), rpc.ClientConfig{}, false},
		{"mTLS", mutual.Addr(), rpc.ClientConfig{TLSCA: ca, TLSCert: certs["client"], TLSKey: keys["client"]}, true},
		{"mTLS without a certificate", mutual.Addr(), rpc.ClientConfig{TLSCA: ca}, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := dial(t, tc.addr, tc.cfg).GetJob(t.Context(), &jobv1.GetJobRequest{Name: "jobs/x"})
			if tc.ok {
				require.NoError(t, err)
				assert.Equal(t, "jobs/x", got.GetName())
				return
			}
			assert.Equal(t, clara.Unavailable, clara.KindOf(err), "%v", err)
		})
	}
	_, err := rpc.NewServer(rpc.Config{Listen: loopback, TLSCert: ca, TLSKey: keys["server"]}, rpc.Options{})
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "a key that does not fit")
	_, err = rpc.Dial(plain.Addr(), rpc.ClientConfig{TLSCA: keys["server"]}, rpc.ClientOptions{})
	assert.ErrorContains(t, err, "no PEM certificate")
}
