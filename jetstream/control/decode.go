package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// decode reads a request strictly: one JSON object, known fields only, each once and spelled as documented, nothing behind it.
// Nothing at all, or white space, is the empty object. Depth is checked before anything is allocated for what is nested.
func decode(data []byte, s *schema, into any) error {
	if len(data) > MaxPayload {
		return refuse(processor.ReasonBadRequest, "the request has %d bytes, at most %d are read", len(data), MaxPayload)
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil
	}
	if !utf8.Valid(data) {
		return refuse(processor.ReasonBadRequest, "the request is not UTF-8")
	}
	if data[0] != '{' {
		return refuse(processor.ReasonBadRequest, "the request is no JSON object: send {…}, or nothing for the defaults")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := checkValue(dec, s, "", 0); err != nil {
		return badJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return refuse(processor.ReasonBadRequest, "something follows the request's JSON object, at byte %d", dec.InputOffset())
	}
	if err := json.Unmarshal(data, into); err != nil {
		return badJSON(err)
	}
	return nil
}

// badJSON words what encoding/json found.
func badJSON(err error) error {
	var own *processor.ControlError
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &own):
		return err
	case errors.As(err, &syntax):
		return refuse(processor.ReasonBadRequest, "the request is not JSON: %s, at byte %d", syntax, syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(processor.ReasonBadRequest, "the request is not JSON: it ends too early")
	case errors.As(err, &wrong):
		return refuse(processor.ReasonBadRequest, "field %q cannot be a %s", tenants.Printable(wrong.Field), wrong.Value)
	}
	return refuse(processor.ReasonBadRequest, "reading the request: %s", tenants.Printable(err.Error()))
}

// checkValue walks one value without building it. s is nil where anything goes.
func checkValue(dec *json.Decoder, s *schema, path string, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if s != nil && s.Type == "" {
		s = nil
	}
	delim, nested := tok.(json.Delim)
	if !nested {
		return checkScalar(tok, s, path)
	}
	if depth >= maxDepth {
		return refuse(processor.ReasonBadRequest, "the request nests deeper than %d levels", maxDepth)
	}
	if want := map[json.Delim]string{'{': "object", '[': "array"}[delim]; s != nil && s.Type != want {
		return refuse(processor.ReasonBadRequest, "%s must be of type %s, not %s", at(path), s.Type, want)
	}
	if delim == '[' {
		var items *schema
		if s != nil {
			items = s.Items
		}
		for i := 0; dec.More(); i++ {
			if err := checkValue(dec, items, path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
				return err
			}
		}
	} else if err := checkObject(dec, s, path, depth); err != nil {
		return err
	}
	_, err = dec.Token() // the closing one
	return err
}

func checkObject(dec *json.Decoder, s *schema, path string, depth int) error {
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := tok.(string)
		if seen[name] {
			return refuse(processor.ReasonBadRequest, "field %q comes twice", tenants.Printable(name))
		}
		seen[name] = true
		var value *schema
		switch {
		case s == nil:
		case s.Closed:
			var known bool
			if value, known = s.Properties[name]; !known {
				fields := "it takes none"
				if len(s.Properties) > 0 {
					fields = "it takes " + s.fields()
				}
				return refuse(processor.ReasonBadRequest, "%s has no field %q: %s", at(path), tenants.Printable(name), fields)
			}
		default:
			value = s.Additional
		}
		if err := checkValue(dec, value, join(path, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func checkScalar(tok json.Token, s *schema, path string) error {
	if s == nil || tok == nil { // null leaves a field at its default
		return nil
	}
	var got string
	switch v := tok.(type) {
	case string:
		got = "string"
	case bool:
		got = "boolean"
	case json.Number:
		got = "number"
		if _, err := strconv.ParseInt(string(v), 10, 64); err == nil && s.Type == "integer" {
			return nil
		}
		if _, err := strconv.ParseUint(string(v), 10, 64); err == nil && s.Type == "integer" {
			return nil
		}
	}
	if got != s.Type {
		return refuse(processor.ReasonBadRequest, "%s must be of type %s, not %s", at(path), s.Type, got)
	}
	return nil
}

func at(path string) string {
	if path == "" {
		return "the request"
	}
	return "field " + strconv.Quote(tenants.Printable(path))
}

// join bounds what it keeps of a name: a long one over a long array would be copied for each item.
func join(path, name string) string {
	name = tenants.Printable(name)
	if path == "" {
		return name
	}
	return path + "." + name
}

// refuse makes a *processor.ControlError.
func refuse(r processor.Reason, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &processor.ControlError{Reason: r, Message: err.Error(), Err: err}
}
