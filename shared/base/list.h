/* list.h - intrusive doubly linked list. The head is a struct list too; an element is in one list
 * at a time. */
#ifndef LM_BASE_LIST_H
#define LM_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_is_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_push_back(struct list *head, struct list *item)
{
    item->prev = head->prev;
    item->next = head;
    head->prev->next = item;
    head->prev = item;
}

static inline void list_push_front(struct list *head, struct list *item)
{
    list_push_back(head->next, item);
}

/* The item is left linked to itself, so removing twice is harmless. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

#define list_entry(ptr, type, member)  ((type *)((char *)(ptr)-offsetof(type, member)))
#define list_first(head, type, member) list_entry((head)->next, type, member)
#define list_last(head, type, member)  list_entry((head)->prev, type, member)

#define list_each(it, head, type, member)                                          \
    for (type *it = list_entry((head)->next, type, member); &it->member != (head); \
         it = list_entry(it->member.next, type, member))

/* `it` may be removed or freed inside the loop; others may not. */
#define list_each_safe(it, head, type, member)                        \
    for (type *it = list_entry((head)->next, type, member),           \
              *it##_next = list_entry(it->member.next, type, member); \
         &it->member != (head);                                       \
         it = it##_next, it##_next = list_entry(it->member.next, type, member))

#endif
