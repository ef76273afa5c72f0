package streams

import _ "embed"

//go:embed asyncapi.yaml
var asyncAPI string

// AsyncAPI returns the AsyncAPI 3.0 document of the stream, in YAML. It describes subjects, headers and
// payloads for consumers that don't import this module. A test checks that it agrees with the code.
func AsyncAPI() []byte { return []byte(asyncAPI) }
