// A foreign SPIFFE program, as go-spiffe's users write it: dials or serves by mutual TLS, and goes by SPIFFE IDs alone.
//
//	peer dial ADDRESS ID CHAIN KEY BUNDLE TRUST-DOMAIN    sends standard input, half-closes, prints what comes
//	peer serve ADDRESS ID CHAIN KEY BUNDLE TRUST-DOMAIN   answers each connection with "got " and what it heard
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func main() {
	if len(os.Args) != 8 {
		log.Fatal("usage: peer dial|serve ADDRESS ID CHAIN KEY BUNDLE TRUST-DOMAIN")
	}
	address := os.Args[2]
	authorizer := tlsconfig.AuthorizeID(spiffeid.RequireFromString(os.Args[3]))
	svid, err := x509svid.Load(os.Args[4], os.Args[5])
	if err != nil {
		log.Fatal(err)
	}
	bundle, err := x509bundle.Load(spiffeid.RequireTrustDomainFromString(os.Args[7]), os.Args[6])
	if err != nil {
		log.Fatal(err)
	}
	if os.Args[1] == "dial" {
		mode := spiffetls.MTLSClientWithRawConfig(authorizer, svid, bundle)
		connection, err := spiffetls.DialWithMode(context.Background(), "tcp", address, mode)
		if err != nil {
			log.Fatal(err)
		}
		defer connection.Close()
		if _, err := io.Copy(connection, os.Stdin); err != nil {
			log.Fatal(err)
		}
		closeWrite(connection)
		if _, err := io.Copy(os.Stdout, connection); err != nil {
			log.Fatal(err)
		}
		return
	}
	mode := spiffetls.MTLSServerWithRawConfig(authorizer, svid, bundle)
	listener, err := spiffetls.ListenWithMode(context.Background(), "tcp", address, mode)
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go answer(connection)
	}
}

func answer(connection net.Conn) {
	defer connection.Close()
	heard, err := io.ReadAll(connection)
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Fprintf(connection, "got %s", heard)
}

// closeWrite says close_notify: spiffetls hides crypto/tls's own method behind net.Conn.
func closeWrite(connection net.Conn) {
	if half, ok := connection.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			log.Fatal(err)
		}
		return
	}
	log.Fatal("this connection can't be half-closed")
}
