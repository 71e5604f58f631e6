package workersaitest_test

import (
	"context"
	"fmt"

	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// A fault makes the first call fail as the API does when it has no capacity.
func ExampleServer_Fault() {
	ctx := context.Background()
	emulator := workersaitest.New(workersaitest.Options{})
	emulator.Fault(workersaitest.Fault{Kind: "translation", To: 1, Code: 3040})

	client := emulator.Client()
	in := workersai.TranslateInput{Texts: []string{"Good morning"}, Target: "es"}
	for range 2 {
		translations, _, err := client.Translate(ctx, "@cf/meta/m2m100-1.2b", in)
		fmt.Println(translations, err != nil)
	}
	fmt.Println(len(emulator.Requests()), "calls")
	// Output:
	// [] true
	// [[es] buenos días] false
	// 2 calls
}
