package control

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"
)

// schema is the part of JSON Schema that requests and answers need. It is derived from Go types, shown in the endpoints' metadata,
// and requests are checked against it.
type schema struct {
	Type       string             `json:"type,omitempty"` // empty: anything
	Format     string             `json:"format,omitempty"`
	Properties map[string]*schema `json:"properties,omitempty"`
	Items      *schema            `json:"items,omitempty"`
	// Additional describes the values of an object with any keys; Closed says that there are no other fields than Properties.
	Additional *schema `json:"additionalProperties,omitempty"`
	Closed     bool    `json:"-"`
}

// MarshalJSON writes a closed object as JSON Schema has it.
func (s *schema) MarshalJSON() ([]byte, error) {
	type plain schema
	if !s.Closed {
		return json.Marshal((*plain)(s))
	}
	return json.Marshal(struct {
		*plain
		Additional bool `json:"additionalProperties"`
	}{(*plain)(s), false})
}

// fields lists an object's fields for an error.
func (s *schema) fields() string {
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

var (
	rawMessage    = reflect.TypeFor[json.RawMessage]()
	timeType      = reflect.TypeFor[time.Time]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// schemaOf derives the schema of a type as encoding/json reads and writes it.
func schemaOf(t reflect.Type) *schema {
	switch {
	case t == rawMessage:
		return &schema{}
	case t == timeType:
		return &schema{Type: "string", Format: "date-time"}
	case t.Implements(textMarshaler):
		return &schema{Type: "string"}
	}
	switch t.Kind() {
	case reflect.Interface:
		return &schema{}
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return &schema{Type: "integer"}
	case reflect.Float64:
		return &schema{Type: "number"}
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Slice:
		return &schema{Type: "array", Items: schemaOf(t.Elem())}
	case reflect.Map:
		return &schema{Type: "object", Additional: schemaOf(t.Elem())}
	case reflect.Struct:
		s := &schema{Type: "object", Properties: map[string]*schema{}, Closed: true}
		s.addFields(t)
		return s
	}
	panic("control: no schema for " + t.String())
}

func (s *schema) addFields(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			s.addFields(f.Type)
		case !f.IsExported() || name == "-":
		case name == "":
			s.Properties[f.Name] = schemaOf(f.Type)
		default:
			s.Properties[name] = schemaOf(f.Type)
		}
	}
}
