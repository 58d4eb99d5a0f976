module asetwin.dev/hack/airgap/pause

go 1.26.0
