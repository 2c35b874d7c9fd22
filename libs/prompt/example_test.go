package prompt_test

import (
	"fmt"

	"github.com/clara-suite/clara/libs/prompt"
)

func ExampleTemplate_Render() {
	t, err := prompt.NewTemplate(`{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}
{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := t.Render([]prompt.Message{{Role: "user", Content: []prompt.Part{prompt.Trusted("Question: "), prompt.Plain("why? ")}}},
		prompt.Vars{AddGenerationPrompt: true}, nil)
	fmt.Println(r.Text, err)
	// Output:
	// [user] Question: why?
	// [assistant] <nil>
}
