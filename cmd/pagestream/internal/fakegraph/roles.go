package fakegraph

import (
	"fmt"
	"net/http"
	"slices"
)

// allTasks are what a person with full control may do on a page.
var allTasks = []string{"ADVERTISE", "ANALYZE", "CREATE_CONTENT", "MESSAGING", "MODERATE", "MANAGE"}

// SetTasks changes what a person may do on a page. With none the person has lost
// the role: the page is not among the accounts any more, and its tokens of that
// person die with 492. It fails with [ErrUnknown].
func (g *Graph) SetTasks(user, page string, tasks []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.users[user].Pages, page) {
		return fmt.Errorf("role of user %s on page %s: %w", user, page, ErrUnknown)
	}
	g.tasks[[2]string{user, page}] = append([]string{}, tasks...)
	if len(tasks) == 0 {
		g.killTokens(492, func(t *token) bool { return t.user == user && t.page == page })
	}
	return nil
}

// tasksOf are the person's tasks on a page; the lock is held.
func (g *Graph) tasksOf(user, page string) []string {
	if tasks, ok := g.tasks[[2]string{user, page}]; ok {
		return tasks
	}
	if !slices.Contains(g.users[user].Pages, page) {
		return nil
	}
	return allTasks
}

// lacksTask is what the edges that change a page say to somebody who only may
// look at it.
func (g *Graph) lacksTask(t token, page string) *failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	may := []string{"MODERATE", "MANAGE", "CREATE_CONTENT"}
	if slices.ContainsFunc(g.tasksOf(t.user, page), func(task string) bool { return slices.Contains(may, task) }) {
		return nil
	}
	return oauth(http.StatusForbidden, 200, 0, "(#200) User does not have sufficient administrative permission for this action on this page")
}
