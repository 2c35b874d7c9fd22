package tokenizer_test

import (
	"fmt"

	"github.com/clara-suite/clara/libs/tokenizer"
)

func Example() {
	file := []byte(`{
		"added_tokens": [{"id": 3, "content": "</s>", "special": true}],
		"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
		"decoder": {"type": "ByteLevel"},
		"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<": 4, "/": 5, "s": 6, ">": 7}, "merges": ["a b"]}}`)
	t, err := tokenizer.Parse(tokenizer.Files{Tokenizer: file})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Encode("aab</s>"))        // a user's text: ordinary characters
	fmt.Println(t.EncodeTrusted("aab</s>")) // a template's text
	fmt.Println(t.Decode([]int32{0, 2, 3}, true))
	// Output:
	// [0 2 4 5 6 7]
	// [0 2 3]
	// aab
}
