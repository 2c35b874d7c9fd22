package llm

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/clara-suite/clara/libs/clara"
)

// shared address space of carriers, RFC 6598, which netip does not count as private.
var carrier = netip.MustParsePrefix("100.64.0.0/10")

// checkAddress refuses addresses that the endpoint does not allow. State.
func (e Endpoint) checkAddress(ip netip.Addr) error {
	ip = ip.Unmap()
	switch {
	case ip.IsLoopback():
		if e.AllowLoopback || e.AllowPrivate {
			return nil
		}
	case ip.IsPrivate() || carrier.Contains(ip):
		if e.AllowPrivate {
			return nil
		}
	case ip.IsGlobalUnicast():
		return nil
	default: // link-local (cloud metadata), multicast, unspecified
		return clara.Errorf(clara.State, "endpoint %s: %s is never an endpoint's address: check %s", e.Name, ip, e.Settings.URL)
	}
	return clara.Errorf(clara.State, "endpoint %s: %s is not a public address: %s would allow it", e.Name, ip, e.Settings.Private)
}

// transport connects to allowed addresses only. The check is made on the address that is connected to, so a name
// that resolves to something else the second time gets nowhere.
func (e Endpoint) transport() http.RoundTripper {
	proxies := map[string]bool{} // host:port of the operator's own proxies
	for _, scheme := range []string{"http", "https"} {
		if p, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: scheme, Host: "example.com"}}); err == nil && p != nil {
			proxies[hostPort(p)] = true
		}
	}
	checked := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return clara.Errorf(clara.State, "endpoint %s: address %s: %w", e.Name, address, err)
		}
		return e.checkAddress(addr.Addr())
	}}
	plain := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 64, MaxIdleConnsPerHost: 64,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if proxies[address] {
				return plain.DialContext(ctx, network, address)
			}
			return checked.DialContext(ctx, network, address)
		},
	}
	return guard{e, t}
}

// guard checks addresses written as such, which a proxy would reach for us.
type guard struct {
	endpoint Endpoint
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil {
		if err := g.endpoint.checkAddress(ip); err != nil {
			return nil, err
		}
	}
	return g.next.RoundTrip(r)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// maxRedirects within the endpoint's own host.
const maxRedirects = 3

// checkRedirect follows only what keeps host and scheme: another host would get the key and the documents.
func checkRedirect(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxRedirects || r.URL.Host != first.Host || r.URL.Scheme != first.Scheme || r.Method != via[0].Method {
		return http.ErrUseLastResponse
	}
	return nil
}
