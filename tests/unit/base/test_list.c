#include "shared/base/list.h"

#include "tests/test.h"

struct item {
    int value;
    struct list link;
};

static int digits_of(struct list *head)
{
    int digits = 0;
    list_each (it, head, struct item, link)
        digits = digits * 10 + it->value;
    return digits;
}

static void test_order(void)
{
    struct list head;
    list_init(&head);
    EXPECT(list_is_empty(&head));
    struct item items[4] = {{.value = 1}, {.value = 2}, {.value = 3}, {.value = 4}};
    list_push_back(&head, &items[1].link);
    list_push_back(&head, &items[2].link);
    list_push_front(&head, &items[0].link);
    list_push_back(&head, &items[3].link);
    EXPECT_INT(digits_of(&head), 1234);
    EXPECT_INT(list_first(&head, struct item, link)->value, 1);
    EXPECT_INT(list_last(&head, struct item, link)->value, 4);
    list_remove(&items[1].link);
    list_remove(&items[1].link); // twice is harmless
    EXPECT_INT(digits_of(&head), 134);
    list_push_back(&head, &items[1].link);
    EXPECT_INT(digits_of(&head), 1342);
}

static void test_removal_and_free_while_walking(void)
{
    struct list head;
    list_init(&head);
    for (int i = 1; i <= 5; i++) {
        struct item *item = malloc(sizeof *item);
        NEED(item != NULL);
        item->value = i;
        list_push_back(&head, &item->link);
    }
    list_each_safe (it, &head, struct item, link) {
        if (it->value % 2 == 0) {
            list_remove(&it->link);
            free(it);
        }
    }
    EXPECT_INT(digits_of(&head), 135);
    list_each_safe (it, &head, struct item, link) {
        list_remove(&it->link);
        free(it);
    }
    EXPECT(list_is_empty(&head));
}

int main(void)
{
    RUN(test_order);
    RUN(test_removal_and_free_while_walking);
    return TEST_END();
}
