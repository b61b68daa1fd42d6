package sqlcheck_test

const nexmarkSchema = `
CREATE TABLE person  (seq INTEGER, id INTEGER, name TEXT, emailAddress TEXT, creditCard TEXT, city TEXT, state TEXT, dateTime INTEGER, extra TEXT);
CREATE TABLE auction (seq INTEGER, id INTEGER, itemName TEXT, description TEXT, initialBid INTEGER, reserve INTEGER, dateTime INTEGER,
                      expires INTEGER, seller INTEGER, category INTEGER, extra TEXT);
CREATE TABLE bid     (seq INTEGER, auction INTEGER, bidder INTEGER, price INTEGER, channel TEXT, url TEXT, dateTime INTEGER,
                      extra TEXT, processed INTEGER);
CREATE TABLE event   (seq INTEGER PRIMARY KEY, dateTime INTEGER);
CREATE TABLE side_input (key INTEGER PRIMARY KEY, value TEXT);
CREATE INDEX bid_auction ON bid (auction);
CREATE INDEX auction_id ON auction (id);
CREATE INDEX person_id ON person (id);
`

// finals are the winning prices of the auctions that are closed, for q4 and q6.
const finals = `
SELECT A.id, A.seller, A.category, A.expires, MAX(B.price) AS final FROM auction A JOIN bid B ON A.id = B.auction
WHERE B.dateTime BETWEEN A.dateTime AND A.expires AND A.expires < :wm GROUP BY A.id, A.seller, A.category, A.expires`

// reports are the columns of q15 and q16.
const reports = `
COUNT(*) AS total_bids, COUNT(*) FILTER (WHERE price < 10000) AS rank1_bids,
COUNT(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids, COUNT(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
COUNT(DISTINCT bidder) AS total_bidders, COUNT(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
COUNT(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
COUNT(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
COUNT(DISTINCT auction) AS total_auctions, COUNT(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions,
COUNT(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions,
COUNT(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions`

const (
	day    = `date(dateTime / 1000, 'unixepoch')`
	minute = `strftime('%H:%M', dateTime / 1000, 'unixepoch')`
	hour   = `CAST(strftime('%H', dateTime / 1000, 'unixepoch') AS INTEGER)`
	dirs   = `'["' || replace(url, '/', '","') || '"]'`
)

// nexmarkSQL is what each query must result in. :wm is the watermark in milliseconds: no event before it is to come. A window is
// closed when its end is not after :wm, an auction when its expiry, which is part of it, is before.
var nexmarkSQL = map[string]string{
	"q0": `SELECT auction, bidder, price, channel, url, dateTime, extra FROM bid`,
	"q1": `SELECT auction, bidder, 908 * price AS price, dateTime, extra FROM bid`,
	"q2": `SELECT auction, price FROM bid WHERE auction % 123 = 0`,
	"q3": `SELECT P.name, P.city, P.state, A.id FROM auction A JOIN person P ON A.seller = P.id
		WHERE A.category = 10 AND P.state IN ('OR', 'ID', 'CA')`,
	"q4": `SELECT category, SUM(final) / COUNT(*) AS avg FROM (` + finals + `) GROUP BY category`,
	"q5": `WITH hops(back) AS (VALUES (0), (2000), (4000), (6000), (8000)),
		counts AS (SELECT auction, COUNT(*) AS num, dateTime / 2000 * 2000 - back AS starttime FROM bid, hops GROUP BY auction, starttime)
		SELECT auction, num, starttime, starttime + 10000 AS endtime
		FROM (SELECT *, MAX(num) OVER (PARTITION BY starttime) AS maxn FROM counts) WHERE num >= maxn AND starttime + 10000 <= :wm`,
	"q6": `SELECT seller, id AS auction, SUM(final) OVER last / COUNT(*) OVER last AS avg FROM (` + finals + `)
		WINDOW last AS (PARTITION BY seller ORDER BY expires, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW)`,
	"q7": `SELECT auction, bidder, price, channel, url, dateTime, extra
		FROM (SELECT *, MAX(price) OVER (PARTITION BY dateTime / 10000) AS maxprice FROM bid)
		WHERE price = maxprice AND (dateTime / 10000 + 1) * 10000 <= :wm`,
	"q8": `SELECT DISTINCT P.id, P.name, P.dateTime / 10000 * 10000 AS starttime FROM person P
		JOIN auction A ON P.id = A.seller AND P.dateTime / 10000 = A.dateTime / 10000 WHERE (P.dateTime / 10000 + 1) * 10000 <= :wm`,
	"q9": `SELECT id, itemName, description, initialBid, reserve, dateTime, expires, seller, category, extra, auction, bidder, price,
			bid_dateTime, bid_extra
		FROM (SELECT A.*, B.auction, B.bidder, B.price, B.dateTime AS bid_dateTime, B.extra AS bid_extra,
				ROW_NUMBER() OVER (PARTITION BY A.id ORDER BY B.price DESC, B.dateTime, B.seq) AS rownum
			FROM auction A JOIN bid B ON A.id = B.auction WHERE B.dateTime BETWEEN A.dateTime AND A.expires AND A.expires < :wm)
		WHERE rownum <= 1`,
	"q11": `WITH marked AS (SELECT bidder, dateTime, COALESCE(dateTime - LAG(dateTime) OVER own > 10000, 1) AS opens FROM bid
			WINDOW own AS (PARTITION BY bidder ORDER BY dateTime)),
		numbered AS (SELECT *, SUM(opens) OVER (PARTITION BY bidder ORDER BY dateTime) AS session FROM marked)
		SELECT bidder, COUNT(*) AS bid_count, MIN(dateTime) AS starttime, MAX(dateTime) + 10000 AS endtime FROM numbered
		GROUP BY bidder, session HAVING MAX(dateTime) + 10000 <= :wm`,
	"q12": `SELECT bidder, COUNT(*) AS bid_count, processed / 10000 * 10000 AS starttime, (processed / 10000 + 1) * 10000 AS endtime
		FROM bid GROUP BY bidder, processed / 10000`,
	"q13": `SELECT B.auction, B.bidder, B.price, B.dateTime, S.value FROM bid B JOIN side_input S ON B.auction % 10000 = S.key`,
	"q14": `SELECT auction, bidder, 908 * price AS price,
			CASE WHEN ` + hour + ` BETWEEN 8 AND 18 THEN 'dayTime' WHEN ` + hour + ` <= 6 OR ` + hour + ` >= 20 THEN 'nightTime'
				ELSE 'otherTime' END AS bidTimeType,
			dateTime, extra, LENGTH(extra) - LENGTH(REPLACE(extra, 'c', '')) AS c_counts
		FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000`,
	"q15": `SELECT ` + day + ` AS day, ` + reports + ` FROM bid GROUP BY day`,
	"q16": `SELECT channel, ` + day + ` AS day, MAX(` + minute + `) AS minute, ` + reports + ` FROM bid GROUP BY channel, ` + day,
	"q17": `SELECT auction, ` + day + ` AS day, COUNT(*) AS total_bids, COUNT(*) FILTER (WHERE price < 10000) AS rank1_bids,
			COUNT(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
			COUNT(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
			MIN(price) AS min_price, MAX(price) AS max_price, SUM(price) / COUNT(*) AS avg_price, SUM(price) AS sum_price
		FROM bid GROUP BY auction, ` + day,
	"q18": `SELECT auction, bidder, price, channel, url, dateTime, extra
		FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC, seq DESC) AS rank_number FROM bid)
		WHERE rank_number <= 1`,
	"q19": `SELECT auction, bidder, price, channel, url, dateTime, extra, rank_number
		FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, seq) AS rank_number FROM bid)
		WHERE rank_number <= 10`,
	"q20": `SELECT B.auction, B.bidder, B.price, B.channel, B.url, B.dateTime AS bid_dateTime, B.extra AS bid_extra,
			A.itemName, A.description, A.initialBid, A.reserve, A.dateTime AS auction_dateTime, A.expires, A.seller, A.category,
			A.extra AS auction_extra
		FROM bid B JOIN auction A ON B.auction = A.id WHERE A.category = 10`,
	"q21": `SELECT * FROM (SELECT auction, bidder, price, channel,
			CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
				ELSE CASE WHEN instr(url, '&channel_id=') > 0 THEN substr(url, instr(url, '&channel_id=') + 12) END END AS channel_id
		FROM bid) WHERE channel_id IS NOT NULL`,
	"q22": `SELECT auction, bidder, price, channel, json_extract(` + dirs + `, '$[3]') AS dir1, json_extract(` + dirs + `, '$[4]') AS dir2,
			json_extract(` + dirs + `, '$[5]') AS dir3
		FROM bid`,
}

// nexmarkLateSQL is what queries must result in when the bound of the source, :bound, is less than the events' disorder. seen is the
// watermark that events before an event have left: a window that ends there or before is closed, and the event does not count in it.
var nexmarkLateSQL = map[string]string{
	"q5": `WITH ` + seen + `, hops(back) AS (VALUES (0), (2000), (4000), (6000), (8000)),
		counts AS (SELECT auction, COUNT(*) AS num, dateTime / 2000 * 2000 - back AS starttime FROM bid JOIN seen USING (seq), hops
			WHERE dateTime / 2000 * 2000 - back + 10000 > seen.wm GROUP BY auction, starttime)
		SELECT auction, num, starttime, starttime + 10000 AS endtime
		FROM (SELECT *, MAX(num) OVER (PARTITION BY starttime) AS maxn FROM counts) WHERE num >= maxn AND starttime + 10000 <= :wm`,
	"q7": `WITH ` + seen + `
		SELECT auction, bidder, price, channel, url, dateTime, extra
		FROM (SELECT *, MAX(price) OVER (PARTITION BY dateTime / 10000) AS maxprice FROM bid JOIN seen USING (seq)
			WHERE (dateTime / 10000 + 1) * 10000 > seen.wm)
		WHERE price = maxprice AND (dateTime / 10000 + 1) * 10000 <= :wm`,
	"q8": `WITH ` + seen + `
		SELECT DISTINCT P.id, P.name, P.dateTime / 10000 * 10000 AS starttime
		FROM (person JOIN seen USING (seq)) P JOIN (auction JOIN seen USING (seq)) A
			ON P.id = A.seller AND P.dateTime / 10000 = A.dateTime / 10000
		WHERE (P.dateTime / 10000 + 1) * 10000 > max(P.wm, A.wm) AND (P.dateTime / 10000 + 1) * 10000 <= :wm`,
}

const seen = `seen AS (SELECT seq, COALESCE(MAX(dateTime) OVER (ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) - :bound AS wm
	FROM event)`
