package dev

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// Trouble is what is wrong with a page of the fake Meta from the start.
type Trouble string

// The troubles of pages. Most pages have none.
const (
	// PasswordChanged, AppRemoved and TokenExpired make the page's token invalid after the
	// page was connected.
	PasswordChanged Trouble = "password changed"
	AppRemoved      Trouble = "app removed"
	TokenExpired    Trouble = "token expired"
	// RoleLost means that the page's admin may only view it since it was connected, and that the
	// subscription is gone.
	RoleLost Trouble = "role lost"
	// NoMessaging means that the page's admin did not allow the app to read messages, so that the page
	// can't be subscribed.
	NoMessaging Trouble = "no messaging"
	// Unsubscribed means that another product removes the subscription after the page was
	// connected.
	Unsubscribed Trouble = "unsubscribed"
	// Handover means that another app owns the threads: messages come as standby.
	Handover Trouble = "handover"
	// Quiet means that nobody writes to the page.
	Quiet Trouble = "quiet"
	// Silent means that people write to the page, which always had much to do at this hour of the week,
	// but Meta delivers nothing of it. It is a trouble only of a new installation: see importPast.
	Silent Trouble = "silent"
)

// subcodes are the subcodes of the troubles that are a dead token.
var subcodes = map[Trouble]int{PasswordChanged: 460, AppRemoved: 458, TokenExpired: 463}

// Shop is a page of the fake Meta.
type Shop struct {
	ID string
	shop
}

type shop struct {
	Name, Category string
	// Company is the company that the page is connected for at the start, empty if it is not
	// connected: it is there for trying the login.
	Company string
	Trouble Trouble
}

// admin returns the id of the person whose token the page is connected with.
func (s Shop) admin() string {
	if s.Trouble == NoMessaging {
		return assistant
	}
	return user
}

// adminOf returns the person whose token a page has.
func adminOf(page string) string {
	for _, s := range Shops() {
		if s.ID == page {
			return s.admin()
		}
	}
	return user
}

// The companies of the pages.
const (
	harbour = "Harbour Retail"
	table   = "Green Table"
	mill    = "Mill Lane Crafts"
)

// Shops returns the pages of the fake Meta in the order in which they are connected.
func Shops() []Shop {
	out := make([]Shop, len(shops))
	for i, s := range shops {
		out[i] = Shop{ID: fmt.Sprint(100000000000101 + i), shop: s}
	}
	return out
}

var shops = []shop{
	{Name: "Corner Bakery", Category: "Bakery", Company: table},
	{Name: "Harbour Bikes", Category: "Bicycle shop", Company: harbour},
	{Name: "Old Mill Books", Category: "Book shop", Company: mill},
	{Name: "Fern & Moss", Category: "Florist", Company: mill, Trouble: PasswordChanged},
	{Name: "Café Anker", Category: "Café", Company: table},
	{Name: "North Pier Surf", Category: "Sporting goods", Company: harbour, Trouble: Handover},
	{Name: "Golden Spoon", Category: "Restaurant", Company: table},
	{Name: "Little Sparks Toys", Category: "Toy shop", Company: mill},
	{Name: "Tide & Timber", Category: "Furniture", Company: harbour, Trouble: Unsubscribed},
	{Name: "Bread & Butter", Category: "Bakery", Company: table},
	{Name: "Wool & Needle", Category: "Craft shop", Company: mill, Trouble: Quiet},
	{Name: "Lighthouse Optics", Category: "Optician", Company: harbour},
	{Name: "La Huerta", Category: "Grocery", Company: table, Trouble: RoleLost},
	{Name: "Paper Crane", Category: "Stationery", Company: mill},
	{Name: "Quay Street Shoes", Category: "Shoe shop", Company: harbour},
	{Name: "Noodle Yard", Category: "Restaurant", Company: table},
	{Name: "Copper Kettle", Category: "Tea room", Company: table, Trouble: Handover},
	{Name: "Clay & Kiln", Category: "Pottery", Company: mill},
	{Name: "Seaside Pets", Category: "Pet shop", Company: harbour},
	{Name: "Olive & Thyme", Category: "Delicatessen", Company: table},
	{Name: "Candle House", Category: "Gift shop", Company: mill, Trouble: AppRemoved},
	{Name: "Anchor Outfitters", Category: "Clothing", Company: harbour},
	{Name: "The Pantry", Category: "Grocery", Company: table, Trouble: Quiet},
	{Name: "Button Box", Category: "Haberdashery", Company: mill},
	{Name: "Dockside Records", Category: "Music shop", Company: harbour, Trouble: Silent},
	{Name: "Gelato Nero", Category: "Ice cream", Company: table},
	{Name: "Frame & Fine", Category: "Picture framer", Company: mill},
	{Name: "Marina Watches", Category: "Jeweller", Company: harbour, Trouble: NoMessaging},
	{Name: "Seven Hills Coffee", Category: "Coffee roaster", Company: table},
	{Name: "Quilt Corner", Category: "Craft shop", Company: mill, Trouble: Handover},
	{Name: "Sail & Rope", Category: "Boat supplies", Company: harbour, Trouble: Quiet},
	{Name: "Spice Route", Category: "Grocery", Company: table, Trouble: TokenExpired},
	{Name: "Linden Soap", Category: "Cosmetics", Company: mill},
	{Name: "Ferry Lane Phones", Category: "Electronics", Company: harbour},
	{Name: "Sunday Pancakes", Category: "Restaurant", Company: table},
	{Name: "Willow Baskets", Category: "Home goods", Company: mill},
	{Name: "Breakwater Garden", Category: "Garden centre", Company: harbour},
	{Name: "Pier 9 Fitness", Category: "Gym", Company: harbour, Trouble: Quiet},
	{Name: "Ink & Lino", Category: "Print studio", Company: mill},
	{Name: "Harbour Kids", Category: "Children's clothing", Company: harbour},
	{Name: "Ravi's Kitchen", Category: "Restaurant"},
	{Name: "Blue Door Hats", Category: "Hat shop"},
}

// content returns the pages of the fake Meta and the people who manage them. The first of them has
// all pages.
func content() (pages []fakegraph.Page, people []fakegraph.User) {
	people = []fakegraph.User{
		{ID: user, Name: "Dev Operator"},
		{ID: assistant, Name: "Dev Assistant", Scopes: []string{"pages_show_list", "pages_manage_metadata"}},
	}
	for _, s := range Shops() {
		pages = append(pages, fakegraph.Page{ID: s.ID, Name: s.Name, Category: s.Category})
		people[0].Pages = append(people[0].Pages, s.ID)
		if s.admin() == assistant {
			people[1].Pages = append(people[1].Pages, s.ID)
		}
	}
	return pages, people
}
