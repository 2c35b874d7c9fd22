package rpc_test

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/rpctest"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// TestReplicas has two servers behind one name, as containers of a scaled service are.
func TestReplicas(t *testing.T) {
	var calls [2]atomic.Int64
	hold := make(chan struct{})
	replica := func(i int) jobs {
		return jobs{
			get: func(context.Context, string) (*jobv1.Job, error) {
				calls[i].Add(1)
				return &jobv1.Job{}, nil
			},
			watch: func(ctx context.Context, s *connect.ServerStream[jobv1.Job]) error {
				if err := s.Send(&jobv1.Job{ItemCount: int64(i)}); err != nil {
					return err
				}
				<-hold
				return nil
			},
		}
	}
	first := rpctest.Serve(t, rpc.Config{Listen: loopback}, rpc.Options{}, mount(replica(0)))
	_, port, err := net.SplitHostPort(first.Addr())
	require.NoError(t, err)
	second := rpctest.Serve(t, rpc.Config{Listen: net.JoinHostPort("127.0.0.2", port)}, rpc.Options{}, mount(replica(1)))
	dialTo := func(addresses ...string) rpc.ClientOptions {
		return rpc.ClientOptions{Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			assert.Equal(t, "localhost", host)
			var found []netip.Addr
			for _, a := range addresses {
				found = append(found, netip.MustParseAddr(a))
			}
			return found, nil
		}}
	}
	count := func() [2]int64 { return [2]int64{calls[0].Swap(0), calls[1].Swap(0)} }

	tests := []struct {
		name      string
		addresses []string
		want      [2]int64
	}{
		{"both do the same share", []string{"127.0.0.1", "127.0.0.2"}, [2]int64{10, 10}},
		{"an address of the other family is not a replica", []string{"::1", "127.0.0.1"}, [2]int64{20, 0}},
		{"the same address in two forms is one", []string{"::ffff:127.0.0.1", "127.0.0.1"}, [2]int64{20, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := rpc.Dial("http://localhost:"+port, rpc.ClientConfig{}, dialTo(tt.addresses...))
			require.NoError(t, err)
			defer c.Close()
			for range 20 {
				_, err := client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, count())
		})
	}

	t.Run("who has a long call gets fewer", func(t *testing.T) {
		c, err := rpc.Dial("http://localhost:"+port, rpc.ClientConfig{}, dialTo("127.0.0.1", "127.0.0.2"))
		require.NoError(t, err)
		defer c.Close()
		stream, err := client(c).WatchJob(t.Context(), &jobv1.WatchJobRequest{})
		require.NoError(t, err)
		require.True(t, stream.Receive(), "%v", stream.Err())
		busy := stream.Msg().GetItemCount()
		for range 20 {
			_, err := client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
			require.NoError(t, err)
		}
		got := count()
		assert.Equal(t, int64(20), got[1-busy])
		close(hold)
		assert.False(t, stream.Receive())
		require.NoError(t, stream.Close())
		for range 20 {
			_, err := client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
			require.NoError(t, err)
		}
		assert.Equal(t, [2]int64{10, 10}, count(), "the ended call no longer counts")
	})

	t.Run("one that is gone is not waited for", func(t *testing.T) {
		require.NoError(t, second.Stop(t.Context()))
		c, err := rpc.Dial("http://localhost:"+port, rpc.ClientConfig{}, dialTo("127.0.0.1", "127.0.0.2"))
		require.NoError(t, err)
		defer c.Close()
		for range 20 {
			_, err := client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
			require.NoError(t, err)
		}
		assert.Equal(t, [2]int64{20, 0}, count())
	})

	t.Run("a name without addresses is unavailable", func(t *testing.T) {
		c, err := rpc.Dial("http://replicas.invalid:"+port, rpc.ClientConfig{}, rpc.ClientOptions{Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "replicas.invalid", IsNotFound: true}
		}})
		require.NoError(t, err)
		defer c.Close()
		_, err = client(c).GetJob(t.Context(), &jobv1.GetJobRequest{})
		assert.Equal(t, clara.Unavailable, clara.KindOf(err), "%v", err)
	})
}
