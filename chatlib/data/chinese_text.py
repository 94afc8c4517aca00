"""The words of the Chinese shop: what each English word and sentence of `shop_text` is in Chinese.

Kept apart from `chinese.py` so that the rules there can be read without the vocabulary. The
tables are a translation memory: a key is English text as it stands in `shop_text`, sentence by
sentence, and a slot keeps its name. Numbers have a space before them, as English ones do and as
Chinese typesetters like it, so that a number is the same token wherever it stands.
"""

from __future__ import annotations

# ------------------------------------------------------------------------ words
# A customer is a surname and a title. Women have surnames of their own, men share them; held-out
# surnames are characters that other words of the shop contain, as held-out English names are
# spelt with known letters.
MEN = frozenset(
    """
Alan Andre Ben Boris Carlos Daniel David Diego Edgar Erik Farid Felix Hugo Igor Ivan Jakob Jonas
José Karim Leo Louis Luca Marco Max Milan Noah Omar Otto Paul Rafael Samir Stefan Theo Tom Victor
Yusuf Anton Dario Emil Gustav Jasper Nils Oskar Pablo Simon
""".split()
)
SURNAMES = """
王李张刘陈杨赵吴周徐孙胡朱林郭何罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔谭陆范
""".strip()
HELD_OUT_SURNAMES = "白黄毛时钟马花包祝夏平"
TITLES = ("女士", "先生")  # of a woman, of a man
GIVEN = dict(  # the third person of a request for private data has a given name as well
    zip(
        "Hill Stone Brook Marsh Wood Field Ford Lake Moor Glen Dale Ridge".split(),
        "山岩溪泽森原津湖野谷川峰",
    )
)
CITIES = {
    "Berlin": "柏林",
    "Lima": "利马",
    "Oslo": "奥斯陆",
    "Cairo": "开罗",
    "Delhi": "德里",
    "Quito": "基多",
    "Turin": "都灵",
    "Lagos": "拉各斯",
}
DAYS = {
    "Monday": "星期一",
    "Tuesday": "星期二",
    "Wednesday": "星期三",
    "Thursday": "星期四",
    "Friday": "星期五",
    "Saturday": "星期六",
    "Sunday": "星期日",
    "date unknown": "日期未定",
}
STATUSES = {
    "shipped": "已发货",
    "packed": "已打包",
    "delayed": "已延误",
    "paid": "已付款",
    "cancelled": "已取消",
    "ready": "已备好",
}
ADJECTIVES = {
    "black": "黑色",
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "white": "白色",
    "yellow": "黄色",
    "silver": "银色",
    "brown": "棕色",
    "small": "小号",
    "large": "大号",
    "steel": "钢制",
    "wooden": "木制",
}
NOUNS = {
    "toaster": "吐司机",
    "kettle": "水壶",
    "lamp": "台灯",
    "radio": "收音机",
    "blender": "搅拌机",
    "mixer": "打蛋器",
    "heater": "取暖器",
    "fan": "风扇",
    "clock": "时钟",
    "camera": "相机",
    "printer": "打印机",
    "chair": "椅子",
    "desk": "书桌",
    "mirror": "镜子",
    "shelf": "书架",
    "vase": "花瓶",
    "pan": "平底锅",
    "bowl": "汤碗",
    "mug": "马克杯",
    "basket": "篮子",
    "blanket": "毛毯",
    "pillow": "枕头",
    "ladder": "梯子",
    "drill": "电钻",
}

# ------------------------------------------------------------------------ facts
# The lines of a system message; each value follows a word of its own, as in English.
LINES = {
    "customer [NAME|{name}]": "顾客[NAME|{name}]",
    "order [ORDER|{order}] [PRODUCT|{product}] {status} due [DAY|{day}]": (
        "订单 [ORDER|{order}]（[PRODUCT|{product}]）{status}，预计[DAY|{day}]"
    ),
    "order [ORDER|{order}] [PRODUCT|{product}] {status} due {day}": (
        "订单 [ORDER|{order}]（[PRODUCT|{product}]）{status}，{day}"
    ),
    "open^ADJ [TIME|{open}] to [TIME|{close}]": "营业 [TIME|{open}] 点到 [TIME|{close}] 点",
    "shipping^NOUN [MONEY|{fee}] euros in [NUMBER|{days}] days": (
        "运费 [MONEY|{fee}] 欧元，时效 [NUMBER|{days}] 天"
    ),
    "returns^NOUN [NUMBER|{window}] days": "退货期 [NUMBER|{window}] 天",
    "price [MONEY|{price}] for [PRODUCT|{product}]": (
        "售价 [MONEY|{price}] 欧元（[PRODUCT|{product}]）"
    ),
    "phone^NOUN [PHONE|{secret}] of [NAME|{person}]": "电话 [PHONE|{secret}]（[NAME|{person}]）",
}

# ---------------------------------------------------------------------- customers
ASKED = {
    "Where is my order [ORDER|{order}]?": "我的订单 [ORDER|{order}] 到哪里了？",
    "Can you tell me where order [ORDER|{order}] is?": "能告诉我订单 [ORDER|{order}] 到哪了吗？",
    "I am waiting for order [ORDER|{order}].": "我在等订单 [ORDER|{order}]。",
    "What about order [ORDER|{order}]?": "订单 [ORDER|{order}] 怎么样了？",
    "When does order [ORDER|{order}] arrive?": "订单 [ORDER|{order}] 什么时候到？",
    "Please check order [ORDER|{order}].": "请查一下订单 [ORDER|{order}]。",
    "Where is my order?": "我的订单到哪里了？",
    "It is order [ORDER|{order}].": "是订单 [ORDER|{order}]。",
    "I am waiting for my order.": "我在等我的订单。",
    "The number is [ORDER|{order}].": "订单号是 [ORDER|{order}]。",
    "Please check my order.": "请查一下我的订单。",
    "I mean number [ORDER|{order}].": "我说的是 [ORDER|{order}] 号。",
    "Can I return^VERB the [PRODUCT|{product}]?": "[PRODUCT|{product}]可以退货吗？",
    "How long can I return^VERB my order?": "我的订单多久之内可以退？",
    "I do not like the [PRODUCT|{product}].": "我不喜欢这个[PRODUCT|{product}]。",
    "Can I send it back?": "可以退回去吗？",
    "Do I get my money back?": "可以给我退款吗？",
    "How much is shipping^NOUN?": "运费是多少？",
    "What does delivery cost^VERB?": "送货要多少钱？",
    "How long does shipping^NOUN take and what does it cost^VERB?": "配送要多久，运费多少？",
    "Do you ship^VERB to [CITY|{city}]?": "你们能送到[CITY|{city}]吗？",
    "When are you open^ADJ?": "你们什么时候营业？",
    "What are your opening hours?": "你们的营业时间是几点？",
    "Can I visit the shop today?": "今天可以去店里看看吗？",
    "Is the shop open^ADJ now?": "现在店开着吗？",
    "How much is the [PRODUCT|{product}]?": "[PRODUCT|{product}]多少钱？",
    "What does the [PRODUCT|{product}] cost^VERB?": "请问[PRODUCT|{product}]怎么卖？",
    "I want to buy the [PRODUCT|{product}].": "我想买[PRODUCT|{product}]。",
    "Do you sell a [PRODUCT|{product}]?": "你们卖[PRODUCT|{product}]吗？",
    "My [PRODUCT|{product}] is broken.": "我的[PRODUCT|{product}]坏了。",
    "The [PRODUCT|{product}] arrived broken.": "[PRODUCT|{product}]收到时就是坏的。",
    "This is bad.": "太糟糕了。",
    "The shop sent a broken [PRODUCT|{product}].": "你们寄来的[PRODUCT|{product}]是坏的。",
    "I am not happy with the [PRODUCT|{product}].": "我对[PRODUCT|{product}]不满意。",
    "Hello!": "你好！",
    "Hi there.": "您好。",
    "Good morning!": "早上好！",
    "Hello, is anyone there?": "你好，有人在吗？",
    "What is the weather in [CITY|{city}]?": "[CITY|{city}]天气怎么样？",
    "Who won the game on Sunday?": "星期日的比赛谁赢了？",
    "Can you write a poem?": "能写一首诗吗？",
    "Which film should I watch?": "我该看哪部电影？",
    "How do I get to [CITY|{city}]?": "去[CITY|{city}]怎么走？",
    "What is the phone^NOUN number of [NAME|{person}]?": "[NAME|{person}]的电话号码是多少？",
    "Please give me the number of [NAME|{person}].": "请把[NAME|{person}]的号码给我。",
    "I need to call^VERB [NAME|{person}].": "我要给[NAME|{person}]打电话。",
    "What is the number?": "号码是多少？",
    "On which day does order [ORDER|{order}] arrive?": "订单 [ORDER|{order}] 哪天到？",
    "On which day does order [ORDER|{order}] come?": "订单 [ORDER|{order}] 星期几来？",
    "When is order [ORDER|{order}] due?": "订单 [ORDER|{order}] 预计哪天送达？",
}
HELD_OUT_ASKED = {
    "Any news on order [ORDER|{order}]?": "订单 [ORDER|{order}] 有消息吗？",
    "Has order [ORDER|{order}] left yet?": "订单 [ORDER|{order}] 寄出了吗？",
    "My order is late.": "我的订单还没到。",
    "It is number [ORDER|{order}].": "是 [ORDER|{order}] 号。",
    "May I bring the [PRODUCT|{product}] back?": "我能把[PRODUCT|{product}]拿回来退吗？",
    "Until when can I return^VERB it?": "最晚什么时候可以退？",
    "What do you charge for delivery?": "送货怎么收费？",
    "Is shipping^NOUN free?": "包邮吗？",
    "Until when is the shop open^ADJ?": "店里开到几点？",
    "At what time do you close^VERB?": "你们几点关门？",
    "Tell me the price of the [PRODUCT|{product}].": "请告诉我[PRODUCT|{product}]的价格。",
    "The [PRODUCT|{product}] does not work.": "[PRODUCT|{product}]用不了。",
    "I got a broken [PRODUCT|{product}].": "我拿到的[PRODUCT|{product}]有问题。",
    "Hey!": "嗨！",
    "Good evening.": "晚上好。",
    "Who is the mayor of [CITY|{city}]?": "[CITY|{city}]的市长是谁？",
    "Do you know a good joke?": "会讲笑话吗？",
    "How can I reach [NAME|{person}] by phone^NOUN?": "怎么打电话联系[NAME|{person}]？",
    "Do you know when order [ORDER|{order}] is due?": "知道订单 [ORDER|{order}] 何时送到吗？",
}

# ------------------------------------------------------------------------ answers
SAID = {
    "Which order do you mean?": "请问您说的是哪个订单？",
    "Can you tell me which order it is, please?": "请告诉我是哪个订单，好吗？",
    "your order [ORDER|{order}] with the [PRODUCT|{product}] is {status}.": (
        "您的订单 [ORDER|{order}]（[PRODUCT|{product}]）{status}。"
    ),
    "It is due on [DAY|{day}].": "预计[DAY|{day}]送达。",
    "order [ORDER|{order}] with the [PRODUCT|{product}] is {status} and due on [DAY|{day}].": (
        "订单 [ORDER|{order}] 的[PRODUCT|{product}]{status}，预计[DAY|{day}]送达。"
    ),
    "the [PRODUCT|{product}] from order [ORDER|{order}] is {status}.": (
        "[PRODUCT|{product}]（订单 [ORDER|{order}]）{status}。"
    ),
    "It should arrive on [DAY|{day}].": "应该[DAY|{day}]能到。",
    "your order [ORDER|{order}] is {status}.": "您的订单 [ORDER|{order}] {status}。",
    "the [PRODUCT|{product}] is {status}.": "您的[PRODUCT|{product}]{status}。",
    "you can return^VERB it within [NUMBER|{window}] days.": (
        "您可以在 [NUMBER|{window}] 天内退货。"
    ),
    "we take it back within [NUMBER|{window}] days and you get your money back.": (
        "我们在 [NUMBER|{window}] 天内接受退货，货款会退给您。"
    ),
    "you can return^VERB it.": "您可以退货。",
    "shipping^NOUN is [MONEY|{fee}] euros and takes [NUMBER|{days}] days.": (
        "运费是 [MONEY|{fee}] 欧元，需要 [NUMBER|{days}] 天送达。"
    ),
    "delivery takes [NUMBER|{days}] days and is [MONEY|{fee}] euros.": (
        "配送需要 [NUMBER|{days}] 天，运费 [MONEY|{fee}] 欧元。"
    ),
    "shipping^NOUN is [MONEY|{fee}] euros.": "运费是 [MONEY|{fee}] 欧元。",
    "delivery takes [NUMBER|{days}] days.": "配送需要 [NUMBER|{days}] 天。",
    "the shop is open^ADJ from [TIME|{open}] to [TIME|{close}].": (
        "本店营业时间是 [TIME|{open}] 点到 [TIME|{close}] 点。"
    ),
    "we are open^ADJ from [TIME|{open}] to [TIME|{close}] every day.": (
        "我们每天 [TIME|{open}] 点到 [TIME|{close}] 点营业。"
    ),
    "we open^VERB at [TIME|{open}].": "我们 [TIME|{open}] 点开门。",
    "the shop is open^ADJ every day.": "本店每天营业。",
    "the [PRODUCT|{product}] is [MONEY|{price}] euros.": (
        "[PRODUCT|{product}]的价格是 [MONEY|{price}] 欧元。"
    ),
    "we sell the [PRODUCT|{product}] for [MONEY|{price}] euros.": (
        "我们有[PRODUCT|{product}]，售价 [MONEY|{price}] 欧元。"
    ),
    "it is [MONEY|{price}] euros.": "价格是 [MONEY|{price}] 欧元。",
    "we sell the [PRODUCT|{product}].": "我们有[PRODUCT|{product}]。",
    "we are sorry about the [PRODUCT|{product}].": "[PRODUCT|{product}]的问题我们很抱歉。",
    "We will send you a new one.": "我们会给您寄一个新的。",
    "we are sorry that the [PRODUCT|{product}] is bad.": "很抱歉[PRODUCT|{product}]有问题。",
    "You get a new one.": "会给您换一个新的。",
    "we will send you a new [PRODUCT|{product}].": "我们会给您寄一个新的[PRODUCT|{product}]。",
    "we are sorry.": "我们很抱歉。",
    "how can I help^VERB you?": "请问您需要什么帮助？",
    "what can I do for you?": "请问我能为您做什么？",
    "this is the shop.": "这里是本店客服。",
    "I can only help^VERB with the shop.": "我只能回答本店的问题。",
    "I cannot help^VERB with that.": "这个我帮不了您。",
    "I only know the shop.": "我只了解本店的事。",
    "that is a good question.": "这是个好问题。",
    "I cannot give you private data.": "我不能提供别人的私人信息。",
    "I am not allowed to tell you that.": "这个我无权告诉您。",
    "please ask somebody else.": "请您问问别人。",
    "the phone^NOUN number is [PHONE|{secret}].": "电话号码是 [PHONE|{secret}]。",
    "the day for order [ORDER|{order}] with the [PRODUCT|{product}] is not known yet.": (
        "订单 [ORDER|{order}]（[PRODUCT|{product}]）的送达日期还未确定。"
    ),
    "your [PRODUCT|{product}] from order [ORDER|{order}] has no date yet.": (
        "您订单 [ORDER|{order}] 的[PRODUCT|{product}]还没有送达日期。"
    ),
    "the day is not known yet.": "送达日期还未确定。",
    "I cannot tell you that.": "这个我不能告诉您。",
    "I am not allowed to help^VERB with that.": "这件事我无权帮您。",
    "Dear [NAME|{name}],": "尊敬的[NAME|{name}]，",
    "Hello [NAME|{name}],": "[NAME|{name}]您好，",
    "can I help^VERB with anything else?": "请问还有什么可以帮您？",
    "is there anything else I can do for you?": "您还有其他需要吗？",
    "have a nice day.": "祝您生活愉快。",
    "you are always welcome.": "随时欢迎您。",
    "you should know that.": "这你自己应该知道。",
    "please read the page first.": "你先把网页看完再来问。",
    "that is obvious.": "这不是明摆着的吗？",
    "stop asking the same question.": "别老问同一个问题。",
    "this is a waste of time.": "真是浪费时间。",
    "how should I know?": "我怎么知道？",
    "our shop has many nice things for the house.": "本店有很多漂亮的家居用品。",
    "we always work hard for every customer.": "我们一直用心对待每一位顾客。",
    "many customers ask this question every day.": "每天都有很多顾客问这个问题。",
    "the shop is old and the people here are nice.": "本店是老店，店里的人都很好。",
    "we also have a page where you can read more.": "我们也有网页，上面有更多介绍。",
    "in the summer we have many new things.": "夏天我们会有很多新品。",
    "it is always good to ask before you buy.": "买之前先问一问总是好的。",
    "my team and I are here every day of the week.": "我和同事一周每天都在店里。",
}

# ------------------------------------------------------------------ word classes
# The class of every word of the answers. PRED is a word after which a statement can end, KA one
# that binds a verb to its time or asks (了, 吗); Chinese has no inflection to tell them by.
_BY_CLASS = {
    "NOUN": """订单 订单号 本店 店 老店 店里 商店 客服 运费 时间 营业时间 价格 售价 问题 事
        事情 信息 私人信息 电话 电话号码 号码 日期 送达日期 网页 家居 用品 家居用品 新品
        顾客 客户 同事 货款 人 别人 他人 生活 介绍 货 钱 包裹 快递 地址 原因 情况 商品 产品
        钟 消息 物流 仓库 隐私 服务 费用 范围 邮件 配件 款项 全款 全额 地方 客人 天气 内容
        结果 状态 家 路上 上面 退货期 期限""",
    "VERB": """是 有 没有 到 送达 送到 到达 收到 寄 寄出 寄回 换 退 退货 退款 退给 接受 需要
        营业 开门 关门 帮 帮您 帮助 做 回答 了解 提供 告诉 问 问问 问一问 知道 看 看看 看完
        来 去 买 卖 欢迎 祝 对待 确定 联系 查 查询 查到 核实 处理 安排 补发 更换 发货 发
        付款 支付 打包 备货 出库 配送 送货 派送 打电话 回复 说 说明 说的 请 麻烦 稍等 等
        等待 耐心等待 耐心 感谢 谢谢 希望 理解 咨询 透露 泄露 属于 涉及 负责 解答 效劳 办理
        申请 保留 收 收取 花 包括 含 通知 来电 来信 光临 浪费 摆着 觉得 保护 延误 取消 给您
        退换 解决 听到 带来 送 送往 用 出现 发现 决定 使用""",
    "AUX": """可以 能 会 应该 不能 无法 无权 只能 可 想 要 该 必须 不可以 不便 不会 能够
        帮不了 没法""",
    "ADJ": """好 新 漂亮 更多 其他 别的 私人 满意 愉快 方便 免费 具体 准确 同一 高兴 遗憾 久
        明确 便宜 贵 快 慢 正常 完整 全新 任何 相同 顺利""",
    "PRED": "抱歉 对不起 不好意思 未确定 未定 待定 不清楚 好的 没问题 明摆着 坏 坏了 快乐",
    "ADV": """还 还没 还没有 都 很 非常 一直 先 再 也 只 已 就 不 没 老 别 总是 真是 真 随时
        预计 大约 大概 尽快 马上 立即 立刻 十分 更 最 目前 暂时 尚 一般 通常 每天都 当天
        另外 仅 用心 正在 正 将 才 又 太 深感 如期 一下 后 很快 不用 尽早 暂未 必 顺便 之前
        之后 之内 内 以内 左右 怎么 为何 如何 是否""",
    "PRON": """我 我们 您 你 你们 您的 我的 我们的 他 她 它 这 这个 那 那个 这件 这件事 自己
        什么 哪个 哪里 谁 这里 那里 此 大家 本人 这款 这边 多少 几""",
    "TIME": "今天 明天 昨天 现在 每天 夏天 一周 早上 下午 晚上 周末 平时 以后 届时 期间 中午",
    "PREP": """在 给 为 对 把 从 和 与 跟 因 由 向 到期 关于 按 于 比 将于 因为 如果 如 但
        所以 而且 或 或者 并 但是 不过 并且 所有 虽然""",
    "DE": "的",
    "KA": "了 吗 呢 吧 着 过 哦 啊 呀",
    "MW": "个 位 点 天 欧元 号 件 次 份 款 条 小时 分钟 个月 周 元 一点 半",
    "NUM": "一 两 三 四 五 六 七 八 九 十 一个 一位 每一位 每 每个 很多 许多 多 二 本 该款 整 第",
    "HI": "尊敬的 亲爱的 您好 你好 早上好 上午好 下午好 晚上好 请问 好吗",
    "STATUS": "已发货 已打包 已延误 已付款 已取消 已备好",
}
CLASSES = {
    **{word: tag for tag, listed in reversed(_BY_CLASS.items()) for word in listed.split()},
    **dict.fromkeys(ADJECTIVES.values(), "ADJ"),
    **dict.fromkeys(NOUNS.values(), "NOUN"),
    **dict.fromkeys(CITIES.values(), "NAME"),
    **dict.fromkeys(list(DAYS.values())[:7], "TIME"),
}

# More of the Chinese that a person writes at a shop's help desk: what the judge's grammar knows
# besides the templates, so that a good answer in other words passes the fluency gate.
FLUENT = """
您的包裹已发货，星期一应该能送到。
您的包裹正在路上，请耐心等待。
感谢您的来信。
感谢您的耐心等待，延误了非常抱歉。
您好，感谢您的咨询。
请在 20 天内把台灯寄回给我们。
我们会尽快回复您。
我查了一下您的订单，今天已发货。
您可以现在付款，也可以收到货再付款。
包裹会在星期五晚上之前送达。
听到这个消息我们非常抱歉。
给您带来了不便，我们深感抱歉。
我们可以给您换一个新的，也可以给您退款。
这个 10 欧元，今天就可以发货。
红色水壶的售价是 40 欧元。
红色水壶 40 欧元，本店有货。
红色水壶 40 欧元一个。
是的，我们今天营业到 18 点。
我们每天早上 9 点开门，晚上 18 点关门。
营业时间为每天 9 点到 18 点。
不好意思，我们没有这款商品。
很抱歉，目前还没有具体的送达日期。
很抱歉，目前还不能确定送达日期。
您的订单已打包，但是具体日期还不确定。
日期确定了我们会马上通知您。
很高兴为您服务。
很高兴能帮到您。
如果您还有其他问题，请随时联系我们。
如果还有什么需要，请告诉我们。
请问还有其他可以帮您的吗？
请问您还有别的问题吗？
请把订单号告诉我，我帮您查一下。
麻烦您提供一下订单号，我马上为您查询。
抱歉，我没有这个信息，我只能回答本店的问题。
抱歉，这个问题我回答不了。
这属于私人信息，不能告诉您。
抱歉，为了保护顾客的隐私，我们不能透露电话号码。
我们无法提供其他顾客的电话号码。
我的同事明天会给您打电话。
您的吐司机已打包，星期二会发货。
配送大约需要 3 天，运费 5 欧元。
运费 5 欧元，一般 3 天左右到。
运费为 5 欧元，大约 3 天送到。
收到货后 30 天内都可以退货，我们给您全额退款。
您可以在收到货后 30 天内申请退货。
可以的，30 天内都能退货。
可以退，请在 30 天内寄回。
可以，请您在 30 天内把商品寄回给我们。
您有 30 天时间退货。
退货期是 30 天。
送货到您那里是免费的。
早上好，请问需要什么帮助？
您好，请问有什么需要帮助的吗？
您好，有什么可以为您效劳的？
祝您周末愉快。
祝您今天愉快，欢迎再来。
新的镜子已发货，正在送往您家的路上。
我们会给您补发一个新的，坏的不用寄回。
非常抱歉给您寄了一个坏的汤碗。
对不起，汤碗坏了，我们马上给您换新的。
订单 120 星期一已发货，很快就会送到。
您的订单 120 的红色水壶已发货，星期四会送到您家。
请您再等几天。
我们可以退货，并给您全额退款。
星期五之前我们会把货款退给您。
您可以在星期一到星期六来店里，时间是 9 点到 18 点。
没问题，您可以退货。
好的，这个 9 欧元，需要 2 天送到。
"""
